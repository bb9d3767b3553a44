//! containerd's transfer and streaming services, driven by a client of our own.

use gantry_core::Namespace;
use gantry_grpc::any;
use gantry_grpc::containerd::services::streaming::v1::StreamInit;
use gantry_grpc::containerd::services::streaming::v1::streaming_client::StreamingClient;
use gantry_grpc::containerd::services::transfer::v1::transfer_client::TransferClient;
use gantry_grpc::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use gantry_grpc::containerd::types::transfer as types;
use gantry_grpc::context::Headers;
use gantry_tests::{CREDENTIALS, Daemon, Options, Registry, endpoint, run};
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

type Service = InterceptedService<Channel, Headers>;

struct Client {
    service: Service,
}

impl Client {
    async fn connect(daemon: &Daemon, namespace: &str) -> Self {
        let channel = endpoint(&daemon.address()).connect().await.expect("connect");
        let namespace = Namespace::new(namespace).expect("a name");
        Self { service: InterceptedService::new(channel, Headers::new(&namespace)) }
    }

    /// Opens a stream; what is sent on it, and what comes.
    async fn stream(&self, id: &str) -> Result<(mpsc::Sender<Any>, Streaming<Any>), Status> {
        let (to, from) = mpsc::channel(4);
        to.send(any::pack(&StreamInit { id: id.into() })).await.expect("there is room");
        let mut client = StreamingClient::new(self.service.clone());
        let mut answers = client.stream(ReceiverStream::new(from)).await?.into_inner();
        let first = answers.message().await?.expect("it is opened");
        assert_eq!(first.type_url, any::pack(&()).type_url);
        Ok((to, answers))
    }

    async fn transfer(&self, from: Any, to: Any, progress: &str) -> Result<(), Status> {
        let options = Some(TransferOptions { progress_stream: progress.into() });
        let request = TransferRequest { source: Some(from), destination: Some(to), options };
        let mut client = TransferClient::new(self.service.clone());
        client.transfer(request).await.map(tonic::Response::into_inner)
    }
}

fn registry(reference: &str) -> Any {
    let resolver = types::RegistryResolver { default_scheme: "http".into(), ..Default::default() };
    any::pack(&types::OciRegistry { reference: reference.into(), resolver: Some(resolver) })
}

fn store(name: &str) -> types::ImageStore {
    types::ImageStore { name: name.into(), ..Default::default() }
}

/// What was told to the end of a transfer.
async fn events(mut progress: Streaming<Any>) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(message) = progress.message().await.expect("it ends with the transfer") {
        let message: types::Progress = any::unpack(&message).expect("progress");
        events.push(message.event);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_unpacked_and_tagged() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let reference = Registry::shared().reference("busybox:latest");
    let ctr = |args: &[&str]| daemon.ctr(&[&["-n", daemon.name()], args].concat()).ok();

    let (_to, progress) = client.stream("progress").await.expect("a stream");
    let mut image = store("example.org/mine:1");
    image.labels.insert("k".into(), "v".into());
    client.transfer(registry(&reference), any::pack(&image), "progress").await.expect("pull");
    let events = events(progress).await;
    for event in ["resolved", "complete", "saved"] {
        assert!(events.iter().any(|e| e == event), "{event} in {events:?}");
    }
    let listed = ctr(&["images", "ls"]).stdout;
    assert!(listed.contains("example.org/mine:1") && listed.contains("k=v"), "{listed}");
    assert_eq!(ctr(&["snapshots", "ls"]).lines().len(), 1, "nothing was to be unpacked");

    image.unpacks = vec![types::UnpackConfiguration::default()];
    client.transfer(registry(&reference), any::pack(&image), "").await.expect("unpack");
    assert_eq!(ctr(&["snapshots", "ls"]).lines().len(), 2);
    let other = any::pack(&store("example.org/other:2"));
    client.transfer(any::pack(&image), other, "").await.expect("tag");
    ctr(&["images", "rm", "--sync", "example.org/mine:1"]);
    ctr(&["run", "--rm", "example.org/other:2", "c", "true"]);
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_for_credentials() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let guarded = Registry::guarded();
    guarded.push("busybox", "busybox:latest");
    let reference = guarded.reference("busybox:latest");
    for (secret, expected) in [("wrong", Err(Code::Unauthenticated)), (CREDENTIALS.1, Ok(()))] {
        let (to, mut questions) = client.stream(secret).await.expect("a stream");
        let answering = tokio::spawn(async move {
            let question = questions.message().await.expect("a question").expect("a question");
            let question: types::AuthRequest = any::unpack(&question).expect("a question");
            let answer = types::AuthResponse {
                auth_type: types::AuthType::Credentials.into(),
                username: CREDENTIALS.0.into(),
                secret: secret.into(),
                ..Default::default()
            };
            to.send(any::pack(&answer)).await.expect("it listens");
            // Open, or the answer is taken back.
            (question, to, questions)
        });
        let resolver = types::RegistryResolver {
            auth_stream: secret.into(),
            default_scheme: "http".into(),
            ..Default::default()
        };
        let from = types::OciRegistry { reference: reference.clone(), resolver: Some(resolver) };
        let to = any::pack(&store(&reference));
        let pulled = client.transfer(any::pack(&from), to, "").await.map_err(|err| err.code());
        assert_eq!(pulled, expected);
        let (question, ..) = answering.await.expect("it was asked");
        assert_eq!((question.host, question.reference), (guarded.host(), reference.clone()));
    }
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_and_come_back() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let (from, to) = (Registry::shared(), Registry::start());
    let name = from.reference("busybox:latest");
    client.transfer(registry(&name), any::pack(&store(&name)), "").await.expect("pull");

    let target = to.reference("some/where:1");
    let (_to, progress) = client.stream("push").await.expect("a stream");
    client.transfer(any::pack(&store(&name)), registry(&target), "push").await.expect("push");
    let events = events(progress).await;
    for event in ["pushing content", "uploading", "complete", "pushed content"] {
        assert!(events.iter().any(|e| e == event), "{event} in {events:?}");
    }
    let log = to.log();
    let uploads = |log: &str| log.matches("PUT /v2/some/where/blobs/uploads/").count();
    assert!(uploads(&log) >= 2, "{log}");
    client.transfer(any::pack(&store(&name)), registry(&target), "").await.expect("push again");
    assert_eq!(uploads(&to.log()), uploads(&log), "nothing is sent twice");
    let elsewhere = to.reference("else/where:1");
    client.transfer(any::pack(&store(&name)), registry(&elsewhere), "").await.expect("push");
    assert!(!to.log().contains("PUT /v2/else/where/blobs/uploads/"), "blobs are taken over");

    daemon.ctr(&["-n", daemon.name(), "images", "rm", "--sync", &name]).ok();
    let mut image = store(&elsewhere);
    image.unpacks = vec![types::UnpackConfiguration::default()];
    client.transfer(registry(&elsewhere), any::pack(&image), "").await.expect("pull");
    daemon.ctr(&["-n", daemon.name(), "run", "--rm", &elsewhere, "c", "true"]).ok();
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_shows_who_it_is() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let name = Registry::shared().reference("busybox:latest");
    client.transfer(registry(&name), any::pack(&store(&name)), "").await.expect("pull");
    let guarded = Registry::guarded();
    let target = guarded.reference("mine:1");
    let refused = client.transfer(any::pack(&store(&name)), registry(&target), "").await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);

    let (to, mut questions) = client.stream("who").await.expect("a stream");
    let answering = tokio::spawn(async move {
        questions.message().await.expect("a question").expect("a question");
        let answer = types::AuthResponse {
            auth_type: types::AuthType::Credentials.into(),
            username: CREDENTIALS.0.into(),
            secret: CREDENTIALS.1.into(),
            ..Default::default()
        };
        to.send(any::pack(&answer)).await.expect("it listens");
        (to, questions)
    });
    let resolver = types::RegistryResolver { auth_stream: "who".into(), ..Default::default() };
    let target = types::OciRegistry { reference: target, resolver: Some(resolver) };
    let pushed = client.transfer(any::pack(&store(&name)), any::pack(&target), "").await;
    pushed.expect("push");
    answering.await.expect("it was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_out_and_come_in() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let reference = Registry::shared().reference("busybox:latest");
    let name = "example.org/mine:1";
    client.transfer(registry(&reference), any::pack(&store(name)), "").await.expect("pull");

    let (to, mut pieces) = client.stream("out").await.expect("a stream");
    let receiving = tokio::spawn(async move {
        let (mut archive, mut window) = (Vec::new(), 0);
        loop {
            if window < 1 << 20 {
                let more = any::pack(&types::WindowUpdate { update: 1 << 20 });
                // At its end nobody listens.
                window += to.send(more).await.map_or(0, |()| 1 << 20);
            }
            let Some(piece) = pieces.message().await.expect("pieces") else { return archive };
            let piece: types::Data = any::unpack(&piece).expect("data");
            window -= piece.data.len();
            archive.extend_from_slice(&piece.data);
        }
    });
    let export = types::ImageExportStream { stream: "out".into(), ..Default::default() };
    client.transfer(any::pack(&store(name)), any::pack(&export), "").await.expect("export");
    let archive = receiving.await.expect("an archive");
    let file = daemon.scratch().join("image.tar");
    std::fs::write(&file, &archive).expect("write the archive");
    let listed = run(std::process::Command::new("tar").arg("-tf").arg(&file)).ok().stdout;
    for path in ["oci-layout", "index.json", "manifest.json", "blobs/sha256/"] {
        assert!(listed.lines().any(|line| line == path), "{path} in {listed}");
    }
    let ctr = |args: &[&str]| daemon.ctr(&[&["-n", daemon.name()], args].concat()).ok();
    ctr(&["images", "rm", "--sync", name]);

    let (to, mut updates) = client.stream("in").await.expect("a stream");
    let (_heard, progress) = client.stream("import").await.expect("a stream");
    let sending = tokio::spawn(async move {
        let (mut left, mut window) = (archive.as_slice(), 0);
        while !left.is_empty() {
            while window == 0 {
                let update = updates.message().await.expect("an update").expect("an update");
                let update: types::WindowUpdate = any::unpack(&update).expect("an update");
                window += usize::try_from(update.update).expect("more room");
            }
            let (piece, rest) = left.split_at(left.len().min(32 << 10).min(window));
            (left, window) = (rest, window - piece.len());
            let data = types::Data { data: piece.to_vec().into() };
            to.send(any::pack(&data)).await.expect("it reads");
        }
        updates
    });
    let import = types::ImageImportStream { stream: "in".into(), ..Default::default() };
    let unpacks = vec![types::UnpackConfiguration::default()];
    let image = types::ImageStore { unpacks, ..store("") };
    client.transfer(any::pack(&import), any::pack(&image), "import").await.expect("import");
    sending.await.expect("all was sent");
    let events = events(progress).await;
    for event in ["Importing", "saved", "unpacked"] {
        assert!(events.iter().any(|e| e == event), "{event} in {events:?}");
    }
    ctr(&["run", "--rm", name, "c", "true"]);
    daemon.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_configured_by_registry() {
    let hosts = tempfile::tempdir().expect("tempdir");
    let directory = hosts.path().join("registry.example");
    std::fs::create_dir(&directory).expect("make a directory");
    let text = format!("server = \"http://{}\"\n", Registry::shared().host());
    std::fs::write(directory.join("hosts.toml"), text).expect("write the configuration");
    let config = format!("[registry]\nconfig_path = {:?}\n", hosts.path());
    let daemon = Daemon::with(Options { config, ..Options::default() });
    daemon.gantry(&["pull", "-q", "registry.example/busybox:latest"]).ok();
    std::fs::write(directory.join("hosts.toml"), "server = 1").expect("write the configuration");
    let refused = daemon.gantry(&["pull", "-q", "registry.example/busybox:latest"]);
    assert!(refused.stderr.contains("registry.example/hosts.toml"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let daemon = Daemon::start();
    let client = Client::connect(&daemon, daemon.name()).await;
    let (a, b) = (any::pack(&store("example.org/a:1")), any::pack(&store("example.org/b:1")));
    let missing = client.transfer(a.clone(), b.clone(), "").await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert!(missing.message().contains("image \"example.org/a:1\""), "{missing}");
    let missing = client.transfer(a.clone(), b.clone(), "none").await.unwrap_err();
    assert!(missing.message().contains("stream \"none\": not found"), "{missing}");
    let unknown = client.transfer(a.clone(), any::pack(&()), "").await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown}");
    let (_to, _answers) = client.stream("twice").await.expect("a stream");
    assert_eq!(client.stream("twice").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(client.stream("").await.unwrap_err().code(), Code::InvalidArgument);
    let elsewhere = registry("127.0.0.1:1/none:1");
    let refused = client.transfer(elsewhere, b, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
