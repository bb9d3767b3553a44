use super::*;
use std::sync::Mutex;

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::db::{Transaction, Visit};
use gantry_core::history::{Cursor, Records, STAGED, Since};
use gantry_core::{LabelScope, Labels, Scope};

use crate::Idempotency;
use crate::model::State;

/// Keeps topics, and what was released.
#[derive(Default)]
struct Topics(Mutex<Vec<String>>);

#[async_trait::async_trait]
impl History for Topics {
    fn append(&self, _: &Context, topic: &str, _: Any) {
        self.0.lock().unwrap().push(topic.to_owned());
    }

    fn release(&self, staged: Staged) {
        self.0.lock().unwrap().push(staged.envelope.topic);
    }

    async fn cursor(&self) -> Result<Cursor> {
        Ok(Cursor::default())
    }

    async fn read(&self, _: Since, _: Option<Timestamp>) -> Result<Records> {
        Ok(Box::pin(futures::stream::pending()))
    }
}

fn store() -> (Store, Context, Arc<Topics>) {
    let topics = Arc::new(Topics::default());
    let store = Store {
        database: MemoryDatabase::new().shared(),
        history: Arc::clone(&topics) as Arc<dyn History>,
        live: Arc::default(),
    };
    (store, Context::new(Namespace::new("default").unwrap()), topics)
}

async fn make(store: &Store, ctx: &Context, id: &str, name: &str) -> Result<Meta> {
    let container = Container { id: id.into(), ..Container::default() };
    let meta = Meta { name: name.into(), ..Meta::default() };
    store.create(ctx, container, meta, Durability::Buffered).await.map(|(_, meta)| meta)
}

#[tokio::test]
async fn a_name_belongs_to_one_container() {
    let (store, ctx, topics) = store();
    make(&store, &ctx, "aa1", "web").await.unwrap();
    let err = make(&store, &ctx, "aa2", "web").await.unwrap_err();
    assert!(err.is_already_exists() && err.to_string().contains("\"aa1\""), "{err}");
    // The refused one left nothing.
    assert!(store.resolve(&ctx, "aa2").await.unwrap_err().is_not_found());
    let random = make(&store, &ctx, "aa3", "").await.unwrap();
    assert!(random.name.contains('_'));
    let created = |meta: &mut Meta| meta.state.phase = Phase::Created;
    let action = Some(Action::Created);
    store.update(&ctx, "aa1", Durability::Sync, action, created).await.unwrap();
    store.remove(&ctx, "aa1", "web", Durability::Sync).await.unwrap();
    // Nobody was told of this one.
    store.remove(&ctx, "aa3", &random.name, Durability::Sync).await.unwrap();
    make(&store, &ctx, "aa2", "web").await.unwrap();
    let seen = topics.0.lock().unwrap().join(" ");
    let want = "/containers/create /containers/create /gantry/containers/created \
                /gantry/containers/removed /containers/delete /gantry/undone /containers/delete \
                /containers/create";
    assert_eq!(seen, want);
    // Nothing was released that a killed daemon would not have left.
    assert_eq!(STAGED.list(&*store.database, "").unwrap().len(), 8);
}

#[tokio::test]
async fn who_has_a_name_is_told_within_the_scope_alone() {
    let (store, free, _) = store();
    let namespace = free.namespace.clone();
    let label = LabelScope { key: "ci".into(), value: "true".into(), namespace };
    let (door, peer) = ("socket /s".to_owned(), "uid=1".to_owned());
    let scope = Scope { door, peer, read_only: false, label: Some(label) };
    let limited = Context { scope: Some(Arc::new(scope)), ..free.clone() };
    make(&store, &free, "aa1", "others").await.unwrap();
    for (id, name) in [("aa2", "own"), ("aa3", "second")] {
        let labels = Labels::from([("ci".to_owned(), "true".to_owned())]);
        let container = Container { id: id.into(), labels: labels.clone(), ..Container::default() };
        let meta = Meta { name: name.into(), labels, ..Meta::default() };
        store.create(&limited, container, meta, Durability::Buffered).await.unwrap();
    }
    let refusals = [
        make(&store, &limited, "aa4", "others").await.unwrap_err(),
        store.rename(&limited, "aa2", "others").await.unwrap_err(),
    ];
    for err in refusals {
        assert!(err.is_already_exists() && err.subject() == Some(("container", "others")));
        let said = err.to_string();
        assert!(said.contains("already in use") && !said.contains("aa1"), "{said}");
    }
    let err = store.rename(&limited, "aa2", "second").await.unwrap_err();
    assert!(err.to_string().contains("\"aa3\""), "{err}");
    let err = store.rename(&free, "aa2", "others").await.unwrap_err();
    assert!(err.to_string().contains("\"aa1\""), "{err}");
}

#[tokio::test]
async fn a_container_on_its_way_out_gives_its_name_free() {
    let (store, ctx, _) = store();
    make(&store, &ctx, "aa1", "web").await.unwrap();
    let leaving = State { phase: Phase::Removing, ..State::default() };
    store.live.entry(&ctx, "aa1").set(leaving);
    assert!(store.resolve(&ctx, "web").await.unwrap_err().is_not_found());
    assert!(store.list(&ctx).await.unwrap().is_empty());
    make(&store, &ctx, "aa2", "web").await.unwrap();
    // Its end does not take the name from its new owner.
    store.remove(&ctx, "aa1", "web", Durability::Sync).await.unwrap();
    assert_eq!(store.resolve(&ctx, "web").await.unwrap().0.id, "aa2");
}

#[tokio::test]
async fn names_ids_and_their_beginnings() {
    let (store, ctx, _) = store();
    for (id, name) in [("abc1", "web"), ("abd2", "cache"), ("ffff", "abc")] {
        make(&store, &ctx, id, name).await.unwrap();
    }
    let id = async |text: &str| store.resolve(&ctx, text).await.map(|(c, _)| c.id);
    assert_eq!(id("web").await.unwrap(), "abc1");
    assert_eq!(id("/web").await.unwrap(), "abc1");
    assert_eq!(id("abd2").await.unwrap(), "abd2");
    assert_eq!(id("abd").await.unwrap(), "abd2");
    // A name counts before the beginning of an ID.
    assert_eq!(id("abc").await.unwrap(), "ffff");
    let err = id("ab").await.unwrap_err();
    assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
    assert!(err.to_string().contains("abc1 (web), abd2 (cache)"), "{err}");
    let err = id("wbe").await.unwrap_err();
    assert_eq!(err.to_string(), "No such container: wbe. Did you mean web?");
    assert_eq!(id("nothing").await.unwrap_err().to_string(), "No such container: nothing");
    assert!(id("").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn changes_are_stored() {
    let (store, ctx, topics) = store();
    make(&store, &ctx, "aa1", "web").await.unwrap();
    let change = |meta: &mut Meta| meta.state.exit_code = 3;
    let died = Some(Action::Died);
    store.update(&ctx, "aa1", Durability::Sync, died, change).await.unwrap();
    assert_eq!(store.resolve(&ctx, "web").await.unwrap().1.state.exit_code, 3);
    assert_eq!(topics.0.lock().unwrap().last().unwrap(), "/gantry/containers/died");
    let gone = store.update(&ctx, "zz", Durability::Sync, died, change).await.unwrap_err();
    assert!(gone.is_not_found());
    assert_eq!(gone.subject(), Some(("container", "zz")));
    assert_eq!(topics.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_container() {
    let (store, ctx, _) = store();
    let once = |key: &str| {
        let request = gantry_core::Digest::of(key.as_bytes());
        Some(Idempotency { key: key.into(), request })
    };
    for (id, name, key) in [("aa1", "web", "k1"), ("aa2", "db", "k2")] {
        let container = Container { id: id.into(), ..Container::default() };
        let meta = Meta { name: name.into(), idempotency: once(key), ..Meta::default() };
        store.create(&ctx, container, meta, Durability::Buffered).await.unwrap();
    }
    let found = store.by_key(&ctx, "k1").await.unwrap().unwrap();
    assert_eq!((found.0.id.as_str(), found.1.idempotency), ("aa1", once("k1")));
    assert!(store.by_key(&ctx, "k3").await.unwrap().is_none());
    let other = Context::new(Namespace::new("other").unwrap());
    assert!(store.by_key(&other, "k1").await.unwrap().is_none());
    store.remove(&ctx, "aa1", "web", Durability::Sync).await.unwrap();
    assert!(store.by_key(&ctx, "k1").await.unwrap().is_none());
    let leaving = State { phase: Phase::Removing, ..State::default() };
    store.live.entry(&ctx, "aa2").set(leaving);
    assert!(store.by_key(&ctx, "k2").await.unwrap().is_none());
    assert_eq!(KEYS.list(&*store.database, "default").unwrap().len(), 1);
}

/// A database to which something happens right before each transaction.
struct Before<F>(Arc<dyn Database>, F);

impl<F: Fn() + Send + Sync> Database for Before<F> {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.get(table, namespace, key)
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        self.0.scan(table, namespace, prefix, visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        self.0.namespaces(table)
    }

    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        (self.1)();
        self.0.transact(durability, body)
    }
}

#[tokio::test]
async fn the_newest_state_is_recorded() {
    let (mut store, ctx, _) = store();
    make(&store, &ctx, "aa1", "web").await.unwrap();
    let live = store.live.entry(&ctx, "aa1");
    store.record(&ctx, "aa1", &live, Durability::Buffered, None).await.unwrap();
    let recorded = async |store: &Store| store.resolve(&ctx, "web").await.unwrap().1.state;
    assert_eq!(recorded(&store).await, State::default());
    let running = State { phase: Phase::Running, pid: 7, ..State::default() };
    live.set(running.clone());
    let stopped = Arc::clone(&live);
    let meanwhile = move || stopped.stopped_by_user();
    store.database = Arc::new(Before(Arc::clone(&store.database), meanwhile));
    store.record(&ctx, "aa1", &live, Durability::Buffered, None).await.unwrap();
    assert_eq!(recorded(&store).await, State { stopped_by_user: true, ..running });
    let gone = store.record(&ctx, "zz", &live, Durability::Buffered, None).await.unwrap_err();
    assert!(gone.is_not_found());
}
