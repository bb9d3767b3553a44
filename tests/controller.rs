//! A small controller that keeps replicas of a container running through List, Watch and
//! idempotent Create, while containers and the daemon are killed beneath it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_grpc::gantry::engine::v1::containers_client::ContainersClient;
use gantry_grpc::gantry::engine::v1::events_client::EventsClient;
use gantry_grpc::gantry::engine::v1::{
    Container, ContainerAction as Action, ContainerChange, ContainerSpec, ContainerState as State,
    CreateContainerRequest, ListContainersRequest, RemoveContainerRequest, StartContainerRequest,
    SubscribeRequest, WatchContainersRequest, subscribe_request::Since,
};
use gantry_grpc::status::from_wire;
use gantry_tests::{Daemon, endpoint};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

const REPLICAS: usize = 3;
/// For whatever a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

async fn connect(address: &Path) -> Result<Channel, tonic::transport::Error> {
    endpoint(address).connect().await
}

async fn client(daemon: &Daemon) -> ContainersClient<Channel> {
    ContainersClient::new(connect(&daemon.address()).await.expect("the daemon serves"))
}

/// What the controller knows, from one listing and what was told since.
#[derive(Clone, Debug, Default)]
struct View {
    containers: BTreeMap<String, Container>,
    /// Cursors of the listing and of every change.
    cursors: Vec<String>,
}

impl View {
    fn apply(&mut self, change: ContainerChange) {
        let action = change.action();
        self.cursors.push(change.cursor);
        let container = change.container.expect("a change is of a container");
        match action {
            Action::Removed => drop(self.containers.remove(&container.id)),
            _ => drop(self.containers.insert(container.id.clone(), container)),
        }
    }

    fn running(&self) -> Vec<&Container> {
        self.containers.values().filter(|c| c.state() == State::Running).collect()
    }

    /// All replicas run, and nothing else is there.
    fn settled(&self) -> bool {
        self.running().len() == REPLICAS && self.containers.len() == REPLICAS
    }

    /// IDs and states.
    fn states(&self) -> BTreeSet<(String, State)> {
        self.containers.values().map(|c| (c.id.clone(), c.state())).collect()
    }
}

struct Controller {
    address: PathBuf,
    image: String,
    view: watch::Sender<View>,
    /// How often each replica was replaced.
    generations: [usize; REPLICAS],
}

impl Controller {
    /// Works until it is aborted; the daemon may be away at any time.
    async fn run(mut self) {
        loop {
            if let Ok(channel) = connect(&self.address).await {
                let ended = self.serve(ContainersClient::new(channel)).await;
                let code = ended.map_or(Code::Unavailable, |status| status.code());
                assert_ne!(code, Code::OutOfRange, "every event is still kept");
            }
            // Nobody tells when the daemon is back.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Works as long as one daemon lives; returns why it ended.
    async fn serve(&mut self, mut client: ContainersClient<Channel>) -> Option<Status> {
        if self.view.borrow().cursors.is_empty() {
            let request = ListContainersRequest { all: true, ..Default::default() };
            let listed = match client.list(request).await {
                Ok(listed) => listed.into_inner(),
                Err(status) => return Some(status),
            };
            let containers = listed.containers.into_iter().map(|c| (c.id.clone(), c));
            let view = View { containers: containers.collect(), cursors: vec![listed.cursor] };
            self.view.send_replace(view);
        }
        let cursor = self.view.borrow().cursors.last().cloned().unwrap_or_default();
        let mut changes = match client.watch(WatchContainersRequest { cursor }).await {
            Ok(changes) => changes.into_inner(),
            Err(status) => return Some(status),
        };
        loop {
            if let Err(status) = self.reconcile(&mut client).await {
                return Some(status);
            }
            match changes.message().await {
                Ok(Some(change)) => self.view.send_modify(|view| view.apply(change)),
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    /// Does what the view says is to be done. What was done already, though not yet told,
    /// is done again without effect.
    async fn reconcile(&mut self, client: &mut ContainersClient<Channel>) -> Result<(), Status> {
        for replica in 0..REPLICAS {
            let label = replica.to_string();
            let found = {
                let view = self.view.borrow();
                let mine = |c: &&Container| c.labels.get("replica") == Some(&label);
                view.containers.values().find(mine).cloned()
            };
            let result = match found {
                None => self.create(client, replica).await,
                Some(container) => match container.state() {
                    State::Created => start(client, container.id).await,
                    State::Exited => {
                        self.generations[replica] = generation(&container) + 1;
                        let request = RemoveContainerRequest {
                            container: container.id,
                            force: true,
                            ..Default::default()
                        };
                        client.remove(request).await.map(drop)
                    }
                    _ => Ok(()),
                },
            };
            match result {
                // It is done, and will be told.
                Err(status) if status.code() == Code::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        client: &mut ContainersClient<Channel>,
        replica: usize,
    ) -> Result<(), Status> {
        let generation = self.generations[replica];
        let labels = [("replica", replica), ("generation", generation)];
        let request = CreateContainerRequest {
            spec: Some(ContainerSpec {
                image: self.image.clone(),
                command: ["sleep", "600"].map(str::to_owned).to_vec(),
                network: "none".into(),
                labels: labels.map(|(key, value)| (key.to_owned(), value.to_string())).into(),
                ..ContainerSpec::default()
            }),
            idempotency_key: format!("{replica}-{generation}"),
            ..CreateContainerRequest::default()
        };
        client.create(request).await.map(drop)
    }
}

fn generation(container: &Container) -> usize {
    container.labels["generation"].parse().expect("a number")
}

async fn start(client: &mut ContainersClient<Channel>, container: String) -> Result<(), Status> {
    client.start(StartContainerRequest { container }).await.map(drop)
}

/// Waits for the view to be so.
async fn until(
    view: &mut watch::Receiver<View>,
    what: &str,
    so: impl FnMut(&View) -> bool,
) -> View {
    let waited = tokio::time::timeout(LIMIT, view.wait_for(so)).await;
    if let Ok(Ok(view)) = waited {
        return view.clone();
    }
    drop(waited);
    panic!("gave up waiting for {what}: {:#?}", view.borrow().states())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_run_whatever_is_killed() {
    let mut daemon = tokio::task::block_in_place(Daemon::start);
    let image = tokio::task::block_in_place(|| daemon.busybox());
    let (view, mut seen) = watch::channel(View::default());
    let (address, generations) = (daemon.address(), [0; REPLICAS]);
    let controller = tokio::spawn(Controller { address, image, view, generations }.run());

    for round in 0..6 {
        let before = until(&mut seen, "all replicas", View::settled).await;
        for container in before.running().into_iter().take(1 + round % 2) {
            let _ = kill(Pid::from_raw(container.pid as i32), Signal::SIGKILL);
        }
        // At once, after the end was told, while it is replaced …
        let changes = before.cursors.len() + round;
        until(&mut seen, "a change", |view| view.cursors.len() >= changes).await;
        tokio::task::block_in_place(|| {
            daemon.kill();
            daemon.restart();
        });
    }
    until(&mut seen, "all replicas", View::settled).await;
    controller.abort();
    let _ = controller.await;
    let end = seen.borrow().clone();
    check(&daemon, &end).await;

    tokio::task::block_in_place(|| {
        let ids: Vec<&str> = end.containers.keys().map(String::as_str).collect();
        daemon.gantry(&[&["rm", "-f"], &ids[..]].concat()).ok();
        daemon.assert_nothing_left();
    });
}

/// The view is what a listing shows, nothing was missed or told twice, and no replica
/// was made twice.
async fn check(daemon: &Daemon, end: &View) {
    let mut client = client(daemon).await;
    let listed = client
        .list(ListContainersRequest { all: true, ..Default::default() })
        .await
        .expect("list")
        .into_inner();
    let listed = View {
        containers: listed.containers.into_iter().map(|c| (c.id.clone(), c)).collect(),
        cursors: Vec::new(),
    };
    assert!(listed.settled(), "{:#?}", listed.states());
    assert_eq!(end.states(), listed.states());

    let request = WatchContainersRequest { cursor: end.cursors[0].clone() };
    let mut changes = client.watch(request).await.expect("watch").into_inner();
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut actions: BTreeMap<String, Vec<Action>> = BTreeMap::new();
    for cursor in &end.cursors[1..] {
        let change = changes.message().await.expect("a change").expect("the stream goes on");
        assert_eq!(&change.cursor, cursor, "the same changes in the same order");
        let action = change.action();
        let container = change.container.expect("a container");
        actions.entry(container.id.clone()).or_default().push(action);
        if action == Action::Created {
            let which = format!("{}-{}", container.labels["replica"], generation(&container));
            made.entry(which).or_default().insert(container.id);
        }
    }
    assert!(made.len() >= REPLICAS + 6, "{made:#?}");
    for (which, ids) in &made {
        assert_eq!(ids.len(), 1, "replica {which} was made more than once: {ids:?}");
    }
    for (id, actions) in &actions {
        let life = [Action::Created, Action::Started, Action::Died, Action::Removed];
        let lives = if end.containers.contains_key(id) { 2 } else { 4 };
        // A start may have been undone, and is then made again.
        let told: Vec<_> = actions.iter().copied().filter(|a| *a != Action::Updated).collect();
        assert_eq!(told, life[..lives], "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gets_the_same_container_also_after_a_restart() {
    let mut daemon = tokio::task::block_in_place(Daemon::start);
    let image = tokio::task::block_in_place(|| daemon.busybox());
    let request = |command: &str| CreateContainerRequest {
        spec: Some(ContainerSpec {
            image: image.clone(),
            name: "once".into(),
            command: vec![command.to_owned()],
            network: "none".into(),
            ..ContainerSpec::default()
        }),
        idempotency_key: "k1".into(),
        ..CreateContainerRequest::default()
    };
    let mut engine = client(&daemon).await;
    let many = (0..8).map(|_| {
        let (mut client, request) = (engine.clone(), request("true"));
        tokio::spawn(async move { client.create(request).await.expect("create").into_inner() })
    });
    let mut made = Vec::new();
    for one in many.collect::<Vec<_>>() {
        made.push(one.await.expect("no panic"));
    }
    assert_eq!(made.iter().filter(|made| !made.existing).count(), 1);
    assert!(made.iter().all(|one| one.id == made[0].id), "{made:?}");

    tokio::task::block_in_place(|| {
        daemon.kill();
        daemon.restart();
    });
    engine = client(&daemon).await;
    let again = engine.create(request("true")).await.expect("create").into_inner();
    assert_eq!((&again.id, again.existing), (&made[0].id, true));
    let other = engine.create(request("false")).await.expect_err("another request");
    assert_eq!(other.code(), Code::FailedPrecondition);
    let other = from_wire(other);
    assert_eq!(other.subject(), Some(("container", made[0].id.as_str())), "{other}");
    tokio::task::block_in_place(|| daemon.gantry(&["rm", "once"]).ok());
    let fresh = engine.create(request("false")).await.expect("create").into_inner();
    assert!(!fresh.existing && fresh.id != made[0].id);
    tokio::task::block_in_place(|| daemon.gantry(&["rm", "once"]).ok());
}

/// Events of before the daemon was killed, and of containers that other clients made.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_others_outlive_the_daemon() {
    let mut daemon = tokio::task::block_in_place(Daemon::start);
    let image = tokio::task::block_in_place(|| daemon.busybox());
    let mut containers = client(&daemon).await;
    let list = containers
        .list(ListContainersRequest { all: true, ..Default::default() })
        .await
        .expect("list");
    let cursor = list.into_inner().cursor;
    tokio::task::block_in_place(|| {
        let run = ["run", "--rm", "--network", "none", "--name", "short", &image, "true"];
        daemon.gantry(&run).ok();
        daemon.ctr(&["-n", "default", "images", "pull", "--plain-http", &image]).ok();
        daemon.ctr(&["-n", "default", "run", "--rm", &image, "foreign", "true"]).ok();
        daemon.kill();
        daemon.restart();
    });
    let channel = connect(&daemon.address()).await.expect("the daemon serves");
    let mut actions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut topics = BTreeSet::new();
    let request = SubscribeRequest {
        since: Some(Since::Cursor(cursor.clone())),
        ..SubscribeRequest::default()
    };
    let mut events = EventsClient::new(channel.clone())
        .subscribe(request)
        .await
        .expect("subscribe")
        .into_inner();
    // What another client did is retold behind it, perhaps only now.
    while actions.values().filter(|a| a.last().is_some_and(|a| a == "removed")).count() < 2 {
        let next = tokio::time::timeout(LIMIT, events.next()).await.expect("it is told");
        let event = next.expect("no end").expect("no error");
        assert_eq!(event.namespace, "default");
        topics.insert(event.topic);
        if event.kind == "container" {
            actions.entry(event.attributes["name"].clone()).or_default().push(event.action);
        }
    }
    for name in ["short", "foreign"] {
        let mut told = actions[name].clone();
        told.dedup();
        told.retain(|action| action != "attached");
        assert_eq!(told, ["created", "started", "died", "removed"], "{name}");
    }
    for topic in ["/containers/create", "/tasks/exit", "/images/update", "/snapshot/prepare"] {
        assert!(topics.contains(topic), "{topic} in {topics:?}");
    }
    let wrong = WatchContainersRequest { cursor: format!("9{cursor}") };
    let mut containers = ContainersClient::new(channel);
    let refused = containers.watch(wrong).await.expect_err("no such cursor");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
}
