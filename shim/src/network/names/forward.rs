//! What name servers said, for as long as it may be kept. What several clients
//! want to know at once is asked once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::namespace::Namespace;
use super::query::Query;
use super::settings::NameServer;
use super::upstream;
use crate::network::spawn;

/// Answers that are kept.
const ENTRIES: usize = 256;
/// And their bytes.
const BYTES: usize = 64 * 1024;
/// Queries that servers are asked at once; others wait for their turn.
const AT_ONCE: usize = 128;
/// How long they wait: clients don't wait longer.
const TURN: Duration = Duration::from_secs(4);
/// The server that answered when others did not is asked first for so long.
const PREFERENCE: Duration = Duration::from_secs(60);

type Key = Box<[u8]>;
/// Nothing yet, or what came of it.
type Outcome = Option<Option<Rc<Answer>>>;

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Borrowed for moments only, like all here.
    cache: RefCell<Cache>,
    /// As many as there are clients that wait, at most.
    under_way: RefCell<HashMap<Key, watch::Receiver<Outcome>>>,
    turns: Semaphore,
    preferred: Cell<Option<(NameServer, Instant)>>,
    /// None until it is known, and where it can't be.
    container: RefCell<Option<Rc<Namespace>>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Cache {
    /// Who said it.
    servers: Vec<NameServer>,
    entries: HashMap<Key, (Instant, Rc<Answer>)>,
    bytes: usize,
}

impl Forwarder {
    /// Knows nothing; `closed` ends what is under way.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            cache: RefCell::default(),
            under_way: RefCell::default(),
            turns: Semaphore::new(AT_ONCE),
            preferred: Cell::new(None),
            container: RefCell::default(),
            closed,
        }
    }

    /// Asks the container's own servers from the network that this socket is in.
    pub(super) fn ask_from(&self, socket: impl AsFd) {
        // Without the right to know it, from the host's.
        self.container.replace(Namespace::of(socket).ok().map(Rc::new));
    }

    /// What these servers said before.
    pub(super) fn remembered(&self, query: &Query, servers: &[NameServer]) -> Option<Rc<Answer>> {
        let mut cache = self.cache.borrow_mut();
        if cache.servers != servers {
            // Others may say something else.
            *cache = Cache { servers: servers.to_vec(), ..Cache::default() };
            return None;
        }
        let (expires, answer) = cache.entries.get(&query.key())?;
        (*expires > Instant::now()).then(|| answer.clone())
    }

    /// What these servers say; none when none of them answers, or its turn does not come.
    pub(super) async fn ask(
        self: &Rc<Self>,
        query: &Query,
        servers: Vec<NameServer>,
    ) -> Option<Rc<Answer>> {
        let key = query.key();
        let known = self.under_way.borrow().get(&key).cloned();
        let mut outcome = match known {
            Some(outcome) => outcome,
            None => self.start(key, query, servers),
        };
        let outcome = outcome.wait_for(Option::is_some).await.ok()?.clone();
        outcome.flatten()
    }

    fn start(
        self: &Rc<Self>,
        key: Key,
        query: &Query,
        servers: Vec<NameServer>,
    ) -> watch::Receiver<Outcome> {
        let (done, outcome) = watch::channel(None);
        self.under_way.borrow_mut().insert(key.clone(), outcome.clone());
        let (this, query) = (self.clone(), query.clone());
        // A client that leaves does not end it for the others.
        spawn(&self.closed, async move {
            let answer = this.take_turn(&query, &servers).await;
            if let Some(answer) = &answer {
                this.cache.borrow_mut().keep(key.clone(), answer.clone(), &servers);
            }
            this.under_way.borrow_mut().remove(&key);
            done.send_replace(Some(answer));
        });
        outcome
    }

    async fn take_turn(&self, query: &Query, servers: &[NameServer]) -> Option<Rc<Answer>> {
        let _turn = tokio::time::timeout(TURN, self.turns.acquire()).await.ok()?.ok()?;
        let container = self.container.borrow().clone();
        let in_order = self.in_order(servers);
        let (server, answer) = upstream::ask(&in_order, query, container.as_deref()).await?;
        self.note(server, servers);
        Some(Rc::new(answer))
    }

    /// The servers in the order in which they are asked.
    fn in_order(&self, servers: &[NameServer]) -> Vec<NameServer> {
        let mut servers = servers.to_vec();
        if let Some((preferred, until)) = self.preferred.get()
            && until > Instant::now()
            && let Some(place) = servers.iter().position(|server| *server == preferred)
        {
            servers[..=place].rotate_right(1);
        }
        servers
    }

    /// Prefers a server that answered instead of the first.
    fn note(&self, server: NameServer, servers: &[NameServer]) {
        let known = self.preferred.get().filter(|(_, until)| *until > Instant::now());
        if servers.first() == Some(&server) {
            self.preferred.set(None);
        } else if known.is_none_or(|(preferred, _)| preferred != server) {
            // From then on the first has its chance again.
            self.preferred.set(Some((server, Instant::now() + PREFERENCE)));
        }
    }
}

impl Cache {
    fn keep(&mut self, key: Key, answer: Rc<Answer>, servers: &[NameServer]) {
        let Some(expires) = answer.expires() else { return };
        let size = key.len() + answer.size();
        if self.servers != servers || size > BYTES / 8 {
            return;
        }
        self.forget(&key);
        if self.entries.len() >= ENTRIES || self.bytes + size > BYTES {
            self.tidy(size);
        }
        self.bytes += size;
        self.entries.insert(key, (expires, answer));
    }

    /// Makes room: first what has expired goes, then what expires first.
    fn tidy(&mut self, size: usize) {
        let mut keys: Vec<(Instant, Key)> =
            self.entries.iter().map(|(key, (expires, _))| (*expires, key.clone())).collect();
        keys.sort_unstable_by_key(|(expires, _)| *expires);
        let now = Instant::now();
        for (expires, key) in keys {
            let full = self.entries.len() >= ENTRIES || self.bytes + size > BYTES;
            if expires > now && !full {
                break;
            }
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some((key, (_, answer))) = self.entries.remove_entry(key) {
            self.bytes -= key.len() + answer.size();
        }
    }
}
