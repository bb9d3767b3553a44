//! A registry that behaves as badly as a test wants. Well-behaved ones are
//! the real thing (see `real`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_core::media_type;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::image::{Blob, Image};

/// A request as it came. Header names are in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    pub(crate) bytes: Vec<u8>,
}

/// What to do with a request.
pub(crate) enum Action {
    /// Serve what is there.
    Serve,
    /// Serve it whole, whatever range was asked for.
    ServeWhole,
    /// Serve this much of it, then cut the connection.
    Cut(usize),
    /// Serve other bytes of the same length.
    Corrupt,
    /// Take the request and say nothing.
    Hang,
    /// Wait until the test lets go, then serve.
    Wait(Arc<tokio::sync::Semaphore>),
    /// Answer with this status and a body that does not end.
    Endless(u16),
    /// Answer this.
    Answer(u16, Vec<(&'static str, String)>, String),
}

/// Bytes of a body that are read at a time.
const PIECE: usize = 64 << 10;

/// Bytes of a body that does not end which are sent.
const ENDLESS: usize = 1 << 20;

type Script = dyn Fn(&Request, usize) -> Action + Send + Sync;

struct State {
    content: Mutex<HashMap<String, Blob>>,
    log: Mutex<Vec<Request>>,
    script: Box<Script>,
    /// How long it rests after each piece of a body.
    pace: Duration,
}

pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<State>,
    server: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// A registry that does what it should.
    pub(crate) async fn good() -> Self {
        Self::scripted(|_, _| Action::Serve).await
    }

    /// A registry for which `script` decides about every request. It also
    /// gets to know how often method and path were asked for before.
    pub(crate) async fn scripted(
        script: impl Fn(&Request, usize) -> Action + Send + Sync + 'static,
    ) -> Self {
        Self::open(Box::new(script), Duration::ZERO).await
    }

    /// A registry that rests after each piece of what it is sent.
    pub(crate) async fn slow(pace: Duration) -> Self {
        Self::open(Box::new(|_, _| Action::Serve), pace).await
    }

    async fn open(script: Box<Script>, pace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state =
            Arc::new(State { content: Mutex::default(), log: Mutex::default(), script, pace });
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that goes away is none of the server's business.
                    let _ = serve(&state, stream).await;
                });
            }
        });
        Self { address, state, server: server.abort_handle() }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Adds an image under a tag and gives its reference.
    pub(crate) fn push(&self, image: &Image, name: &str, tag: &str) -> String {
        for blob in image.blobs() {
            self.put(blob.digest().as_str(), blob);
        }
        self.put(tag, &image.manifest);
        format!("{}/{name}:{tag}", self.host())
    }

    /// Adds content under a digest or tag.
    pub(crate) fn put(&self, key: &str, blob: &Blob) {
        self.state.content.lock().unwrap().insert(key.to_owned(), blob.clone());
    }

    /// What is stored under a digest or tag.
    pub(crate) fn get(&self, key: &str) -> Option<Blob> {
        self.state.content.lock().unwrap().get(key).cloned()
    }

    /// Requests so far of this method whose path has this in it.
    pub(crate) fn of_method(&self, method: &str, part: &str) -> Vec<Request> {
        self.requests(part).into_iter().filter(|r| r.method == method).collect()
    }

    /// Requests so far whose path has this in it.
    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        let log = self.state.log.lock().unwrap();
        log.iter().filter(|r| r.path.contains(part)).cloned().collect()
    }

    /// Requests for the bytes of a blob.
    pub(crate) fn fetched(&self, blob: &Blob) -> Vec<Request> {
        self.requests(&format!("/blobs/{}", blob.digest()))
    }
}

async fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(request) = read(&mut stream, state.pace).await? else { return Ok(()) };
    let times = {
        let mut log = state.log.lock().unwrap();
        let same = |r: &&Request| r.path == request.path && r.method == request.method;
        let times = log.iter().filter(same).count();
        log.push(request.clone());
        times
    };
    let mut stream = stream.into_inner();
    let mut ranged = true;
    let mut limit = usize::MAX;
    let mut corrupt = false;
    match (state.script)(&request, times) {
        Action::Serve => {}
        Action::ServeWhole => ranged = false,
        Action::Cut(after) => limit = after,
        Action::Corrupt => corrupt = true,
        Action::Hang => {
            let mut rest = Vec::new();
            return stream.read_to_end(&mut rest).await.map(drop);
        }
        Action::Endless(status) => {
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&vec![b'x'; ENDLESS]).await?;
            // What would come next is waited for until the client has had enough.
            return stream.read_to_end(&mut Vec::new()).await.map(drop);
        }
        Action::Wait(gate) => drop(gate.acquire().await),
        Action::Answer(status, headers, body) => {
            let headers = headers.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            return answer(&mut stream, &request, status, headers, body.as_bytes(), limit).await;
        }
    }
    if request.path == "/v2/" {
        return answer(&mut stream, &request, 200, Vec::new(), b"{}", limit).await;
    }
    if let Some((status, headers)) = stored(state, &request) {
        return answer(&mut stream, &request, status, headers, b"", limit).await;
    }
    let path = request.path.split('?').next().unwrap_or("");
    let key = path.rsplit('/').next().unwrap_or("");
    let found = state.content.lock().unwrap().get(key).cloned();
    let Some(mut blob) = found else {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return answer(&mut stream, &request, 404, Vec::new(), body.as_bytes(), limit).await;
    };
    if corrupt {
        blob.bytes.iter_mut().for_each(|b| *b ^= 1);
    }
    let mut headers = Vec::new();
    if media_type::is_manifest(blob.media_type) || media_type::is_index(blob.media_type) {
        headers.push(("content-type".to_owned(), blob.media_type.to_owned()));
        headers.push(("docker-content-digest".to_owned(), blob.digest().to_string()));
    }
    let from = request.headers.get("range").filter(|_| ranged).map(|range| {
        let start = range.trim_start_matches("bytes=").trim_end_matches('-');
        start.parse::<usize>().expect("a range with a start")
    });
    let (status, bytes) = match from {
        Some(from) => (206, &blob.bytes[from..]),
        None => (200, &blob.bytes[..]),
    };
    answer(&mut stream, &request, status, headers, bytes, limit).await
}

/// What becomes of a request to store something: an answer without a body.
fn stored(state: &State, request: &Request) -> Option<(u16, Vec<(String, String)>)> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parameter = |name: &str| {
        query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).map(decoded)
    };
    let mut content = state.content.lock().unwrap();
    match request.method.as_str() {
        "POST" if path.ends_with("/blobs/uploads/") => {
            let there = parameter("mount").is_some_and(|digest| content.contains_key(&digest));
            let location = ("location".to_owned(), format!("{path}some-id?state=x"));
            Some(if there { (201, Vec::new()) } else { (202, vec![location]) })
        }
        "PUT" => {
            let media_type = match request.headers.get("content-type").map(String::as_str) {
                Some(media_type::OCI_INDEX) => media_type::OCI_INDEX,
                Some(media_type::DOCKER_MANIFEST) => media_type::DOCKER_MANIFEST,
                Some(media_type::OCI_MANIFEST) => media_type::OCI_MANIFEST,
                _ => "application/octet-stream",
            };
            let blob = Blob { media_type, bytes: request.bytes.clone() };
            let digest = blob.digest().to_string();
            if parameter("digest").is_some_and(|said| said != digest) {
                return Some((400, Vec::new()));
            }
            let key = path.rsplit('/').next().unwrap_or("");
            if !path.contains("/uploads/") {
                content.insert(key.to_owned(), blob.clone());
            }
            content.insert(digest.clone(), blob);
            Some((201, vec![("docker-content-digest".to_owned(), digest)]))
        }
        _ => None,
    }
}

fn decoded(text: &str) -> String {
    text.replace("%3A", ":").replace("%2F", "/")
}

async fn read(
    stream: &mut BufReader<TcpStream>,
    pace: Duration,
) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    for piece in body.chunks_mut(PIECE) {
        stream.read_exact(piece).await?;
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }
    let (body, bytes) = (String::from_utf8_lossy(&body).into_owned(), body);
    Ok(Some(Request { method, path, headers, body, bytes }))
}

async fn answer(
    stream: &mut TcpStream,
    request: &Request,
    status: u16,
    headers: Vec<(String, String)>,
    body: &[u8],
    limit: usize,
) -> std::io::Result<()> {
    let mut head =
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if request.method != "HEAD" {
        stream.write_all(&body[..body.len().min(limit)]).await?;
    }
    stream.flush().await?;
    stream.shutdown().await
}
