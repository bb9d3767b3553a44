//! What name servers said, for as long as it may be kept. What several clients
//! want to know at once is asked once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::query::Query;
use super::upstream;
use crate::network::spawn;

/// Answers that are kept.
const ENTRIES: usize = 256;
/// And their bytes.
const BYTES: usize = 64 * 1024;
/// Queries under way.
const UNDER_WAY: usize = 128;
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
    under_way: RefCell<HashMap<Key, watch::Receiver<Outcome>>>,
    preferred: Cell<Option<(SocketAddr, Instant)>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Cache {
    /// Who said it.
    servers: Vec<SocketAddr>,
    entries: HashMap<Key, (Instant, Rc<Answer>)>,
    bytes: usize,
}

impl Forwarder {
    /// Knows nothing; `closed` ends what is under way.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            cache: RefCell::default(),
            under_way: RefCell::default(),
            preferred: Cell::new(None),
            closed,
        }
    }

    /// What these servers said before.
    pub(super) fn remembered(&self, query: &Query, servers: &[SocketAddr]) -> Option<Rc<Answer>> {
        let mut cache = self.cache.borrow_mut();
        if cache.servers != servers {
            // Others may say something else.
            *cache = Cache { servers: servers.to_vec(), ..Cache::default() };
            return None;
        }
        let (expires, answer) = cache.entries.get(&query.key())?;
        (*expires > Instant::now()).then(|| answer.clone())
    }

    /// What these servers say; none when none of them answers, or too much is under way.
    pub(super) async fn ask(
        self: &Rc<Self>,
        query: &Query,
        servers: Vec<SocketAddr>,
    ) -> Option<Rc<Answer>> {
        let key = query.key();
        let known = self.under_way.borrow().get(&key).cloned();
        let mut outcome = match known {
            Some(outcome) => outcome,
            None => self.start(key, query, servers)?,
        };
        let outcome = outcome.wait_for(Option::is_some).await.ok()?.clone();
        outcome.flatten()
    }

    fn start(
        self: &Rc<Self>,
        key: Key,
        query: &Query,
        servers: Vec<SocketAddr>,
    ) -> Option<watch::Receiver<Outcome>> {
        let (done, outcome) = watch::channel(None);
        {
            let mut under_way = self.under_way.borrow_mut();
            if under_way.len() >= UNDER_WAY {
                return None;
            }
            under_way.insert(key.clone(), outcome.clone());
        }
        let (this, query) = (self.clone(), query.clone());
        // A client that leaves does not end it for the others.
        spawn(&self.closed, async move {
            let answer = upstream::ask(&this.in_order(&servers), &query).await;
            let answer = answer.map(|(server, answer)| {
                this.note(server, &servers);
                Rc::new(answer)
            });
            if let Some(answer) = &answer {
                this.cache.borrow_mut().keep(key.clone(), answer.clone(), &servers);
            }
            this.under_way.borrow_mut().remove(&key);
            done.send_replace(Some(answer));
        });
        Some(outcome)
    }

    /// The servers in the order in which they are asked.
    fn in_order(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
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
    fn note(&self, server: SocketAddr, servers: &[SocketAddr]) {
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
    fn keep(&mut self, key: Key, answer: Rc<Answer>, servers: &[SocketAddr]) {
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
