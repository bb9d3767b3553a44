//! What is asked over a connection, and which answers are good.

use std::io;
use std::time::Duration;

use gantry_core::{Error, Result};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::limited;
use super::monitor::Outcome;
use super::target::{Question, Target};

/// Bytes of an answer's head.
const HEAD: usize = 16 << 10;
/// Bytes that are read behind it, so that the server is not cut off.
const REST: usize = 64 << 10;
/// For those.
const REST_TIME: Duration = Duration::from_secs(1);
/// Largest answer about a service.
const ANSWER: usize = 4096;

/// Asks over a fresh connection.
pub(super) async fn ask(stream: TcpStream, target: &Target) -> Outcome {
    let answer = match &target.question {
        Question::Tcp => Ok(Outcome::good(String::new())),
        Question::Http(path) => http(stream, &target.authority, path).await,
        Question::Grpc(service) => grpc(stream, &target.authority, service).await,
    };
    answer.unwrap_or_else(|err| Outcome::bad(err.to_string()))
}

async fn http(mut stream: TcpStream, authority: &str, path: &str) -> Result<Outcome> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: gantry\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    let failed = |err| Error::io(format!("GET http://{authority}{path}"), err);
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let (status, begin) = loop {
        if let Some(found) = status(&answer)? {
            break found;
        }
        if answer.len() >= HEAD {
            return Err(Error::internal("the head of the answer does not end"));
        }
        if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
            return Err(Error::unavailable("the connection ended before there was an answer"));
        }
    };
    let rest = async {
        while answer.len() < HEAD + REST
            && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0)
        {}
    };
    // The verdict is there; what follows is for its reader.
    let _ = tokio::time::timeout(REST_TIME, rest).await;
    let said = &answer[begin..];
    if (200..400).contains(&status) {
        let line = said.split(|b| *b == b'\n').next().unwrap_or_default();
        return Ok(Outcome::good(String::from_utf8_lossy(line.trim_ascii()).into_owned()));
    }
    Ok(Outcome::bad(limited(said)))
}

/// The status of an answer, and where the answer begins behind those that only say that
/// there will be one. `None` when more has to be read.
///
/// # Errors
/// It is not HTTP.
fn status(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut begin = 0;
    loop {
        let rest = &answer[begin..];
        let Some(end) = find(rest, b"\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&rest[..end]);
        let mut words = line.trim_end().splitn(3, ' ');
        let (version, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number = code.parse::<u16>().ok().filter(|n| code.len() == 3 && *n >= 100);
        let status = match number {
            Some(number) if version.starts_with("HTTP/1.") => number,
            _ => return Err(Error::internal("the answer is not HTTP")),
        };
        if status >= 200 {
            return Ok(Some((status, begin)));
        }
        let Some(end) = find(rest, b"\r\n\r\n") else { return Ok(None) };
        begin += end + 4;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

async fn grpc(stream: TcpStream, authority: &str, service: &str) -> Result<Outcome> {
    let unavailable = |err: tonic::transport::Error| {
        Error::unavailable(format!("speak gRPC with {authority}")).with_source(err)
    };
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(unavailable)?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        // There is one: it is not connected to again.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(unavailable)?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(ANSWER);
    let request = HealthCheckRequest { service: service.to_owned() };
    match client.check(request).await {
        Ok(answer) => {
            let status = answer.into_inner().status();
            let word = status.as_str_name().to_owned();
            let good = status == ServingStatus::Serving;
            Ok(if good { Outcome::good(word) } else { Outcome::bad(word) })
        }
        Err(status) => Ok(Outcome::bad(format!("{:?}: {}", status.code(), status.message()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    /// Answers the first connection like this, once it has asked.
    async fn server(answer: &'static [u8]) -> (TcpStream, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while find(&asked, b"\r\n\r\n").is_none() {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (TcpStream::connect(address).await.unwrap(), asked)
    }

    async fn get(answer: &'static [u8]) -> Outcome {
        let (stream, asked) = server(answer).await;
        let outcome = ask(stream, &Target::http("http://localhost:8080/up?a=b").unwrap()).await;
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /up?a=b HTTP/1.1\r\nHost: localhost:8080\r\n"), "{asked}");
        outcome
    }

    #[tokio::test]
    async fn answers_that_are_good() {
        let good = get(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n").await;
        assert_eq!(good, Outcome::good("HTTP/1.1 204 No Content".into()));
        assert!(get(b"HTTP/1.0 200\r\n\r\nbody").await.is_good());
        assert!(get(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await.is_good());
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(get(early).await, Outcome::good("HTTP/1.1 200 OK".into()));
    }

    #[tokio::test]
    async fn answers_that_are_not() {
        let bad = get(b"HTTP/1.1 503 Service Unavailable\r\n\r\nno database").await;
        assert!(!bad.is_good());
        assert!(bad.output.starts_with("HTTP/1.1 503") && bad.output.ends_with("no database"));
        assert_eq!(get(b"SSH-2.0-x\r\n").await, Outcome::bad("the answer is not HTTP".into()));
        assert!(get(b"").await.output.contains("before there was an answer"));
        assert!(get(b"HTTP/1.1 103 Early Hints\r\n").await.output.contains("before there was"));
    }

    #[test]
    fn an_answer_comes_in_pieces() {
        let whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n";
        for end in 0..whole.len() {
            assert_eq!(status(&whole[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(status(whole).unwrap(), Some((200, 25)));
        for bad in [&b"\n"[..], b"HTTP/2 200\n", b"HTTP/1.1 20\n", b"HTTP/1.1 abc\n"] {
            assert!(status(bad).is_err());
        }
    }

    #[tokio::test]
    async fn grpcs_own_health() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let check = |service: &'static str| async move {
            let target = Target::grpc(&format!("{address}{service}")).unwrap();
            ask(TcpStream::connect(address).await.unwrap(), &target).await
        };
        assert_eq!(check("").await, Outcome::good("SERVING".into()));
        assert_eq!(check("/down").await, Outcome::bad("NOT_SERVING".into()));
        let unknown = check("/nope").await;
        assert!(unknown.output.starts_with("NotFound: "), "{}", unknown.output);
    }

    #[tokio::test]
    async fn others_do_not_speak_grpc() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let outcome = ask(stream, &Target::grpc("localhost:1").unwrap()).await;
        assert_eq!(outcome.exit_code, 1, "{}", outcome.output);
    }
}
