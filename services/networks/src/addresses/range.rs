//! The addresses of one subnet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gantry_core::networks::Subnet;
use ipnet::IpNet;

use super::Key;
use super::numbers::{address, number, usable};

/// How long an address is not given to another container after its last one had it, unless its
/// interface is known to be gone: the kernel takes namespaces away when it has time, and until
/// then the old container answers for it.
const REST: Duration = Duration::from_secs(3);

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taker {
    /// The host, or the router of a macvlan network.
    Gateway,
    /// The host, beside containers of a network on an interface that is its own.
    Host,
    /// Whatever it is reserved for.
    Reserved(String),
    /// A container.
    Container(Key),
}

/// Why an address is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is none of the subnet's that an interface may have.
    Outside,
    /// Somebody has it.
    Taken(Taker),
    /// All are taken.
    Full,
}

/// The addresses of one subnet, and who has them.
#[derive(Debug)]
pub(crate) struct Range {
    subnet: IpNet,
    /// Those that may be asked for.
    usable: (u128, u128),
    /// Those that are given to who asks for none.
    given: (u128, u128),
    taken: BTreeMap<u128, Taker>,
    /// Those that the host has by itself.
    host: BTreeSet<u128>,
    /// No number below it is free.
    hint: u128,
    /// Given back, with the interface of the host's through which it was reached.
    resting: BTreeMap<u128, (Instant, String)>,
}

impl Range {
    /// A subnet in which nobody but the gateway has an address.
    pub(crate) fn new(subnet: &Subnet) -> Self {
        let usable_of_all = usable(subnet.subnet);
        let given = match subnet.ip_range {
            // The ends of a part are addresses like others, unless they are those of the whole.
            Some(part) => {
                let (first, last) = (number(part.network()), number(part.broadcast()));
                (first.max(usable_of_all.0), last.min(usable_of_all.1))
            }
            None => usable_of_all,
        };
        let mut taken = BTreeMap::new();
        for (what, reserved) in &subnet.reserved {
            taken.insert(number(*reserved), Taker::Reserved(what.clone()));
        }
        if let Some(gateway) = subnet.gateway {
            taken.insert(number(gateway), Taker::Gateway);
        }
        let hint = given.0;
        let (host, resting) = (BTreeSet::new(), BTreeMap::new());
        Self { subnet: subnet.subnet, usable: usable_of_all, given, taken, host, hint, resting }
    }

    /// Says which addresses the host has by itself: no container gets one of them from now on.
    pub(crate) fn keep_from(&mut self, host: &[IpAddr]) {
        let own = host.iter().filter(|at| self.subnet.contains(*at));
        let host: BTreeSet<u128> = own.map(|at| number(*at)).collect();
        if host != self.host {
            self.host = host;
            // One that it had may be free again.
            self.hint = self.given.0;
        }
    }

    /// Gives an address away: the one that is wanted, else the first free one. Answers also with
    /// the interface of the host's through which it was reached by who had it last, if that was
    /// just now.
    pub(crate) fn claim(
        &mut self,
        wanted: Option<IpAddr>,
        taker: Key,
    ) -> Result<(IpAddr, Option<String>), Refusal> {
        let found = match wanted {
            Some(wanted) => self.check(wanted)?,
            None => self.first_free().ok_or(Refusal::Full)?,
        };
        self.taken.insert(found, Taker::Container(taker));
        let last = self.resting.remove(&found).map(|(_, interface)| interface);
        Ok((address(found, self.is_v6()), last))
    }

    /// Takes note of who has an address from earlier. Whether nobody else has it.
    pub(crate) fn keep(&mut self, kept: IpAddr, taker: Key) -> bool {
        match self.check(kept) {
            Ok(kept) => self.taken.insert(kept, Taker::Container(taker)).is_none(),
            Err(_) => false,
        }
    }

    /// Takes an address back from a container; those of others stay. Until the interface has
    /// gone, or some time has passed, nobody is given it who does not ask for it.
    pub(crate) fn release(&mut self, released: IpAddr, taker: &Key, interface: Option<&str>) {
        let released = number(released);
        if !matches!(self.taken.get(&released), Some(Taker::Container(has)) if has == taker) {
            return;
        }
        self.taken.remove(&released);
        self.hint = self.hint.min(released.max(self.given.0));
        if let Some(interface) = interface {
            self.resting.insert(released, (Instant::now() + REST, interface.to_owned()));
        }
    }

    /// An interface of the host's has gone: what was reached through it may be given away.
    pub(crate) fn gone(&mut self, interface: &str) {
        self.resting.retain(|_, (_, name)| name != interface);
    }

    fn is_v6(&self) -> bool {
        self.subnet.addr().is_ipv6()
    }

    fn check(&self, wanted: IpAddr) -> Result<u128, Refusal> {
        let wanted_number = number(wanted);
        let usable = self.usable.0..=self.usable.1;
        if wanted.is_ipv6() != self.is_v6() || !usable.contains(&wanted_number) {
            return Err(Refusal::Outside);
        }
        match self.taken.get(&wanted_number) {
            Some(taker) => Err(Refusal::Taken(taker.clone())),
            None if self.host.contains(&wanted_number) => Err(Refusal::Taken(Taker::Host)),
            None => Ok(wanted_number),
        }
    }

    fn first_free(&mut self) -> Option<u128> {
        let now = Instant::now();
        self.resting.retain(|_, (until, _)| *until > now);
        let mut resting = None;
        let mut at = self.hint;
        while at <= self.given.1 {
            if self.taken.contains_key(&at) || self.host.contains(&at) {
                // What is passed over for resting only stays within reach of the hint.
                if at == self.hint {
                    self.hint = at.saturating_add(1);
                }
            } else if self.resting.contains_key(&at) {
                resting = resting.or(Some(at));
            } else {
                return Some(at);
            }
            let Some(next) = at.checked_add(1) else { break };
            at = next;
        }
        resting
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Namespace;

    use super::*;

    fn key(id: &str) -> Key {
        (Namespace::new("default").unwrap(), id.to_owned())
    }

    fn subnet(subnet: &str, gateway: &str, part: Option<&str>) -> Subnet {
        Subnet {
            subnet: subnet.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            ip_range: part.map(|part| part.parse().unwrap()),
            reserved: [("printer".to_owned(), "10.0.0.3".parse().unwrap())].into(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_one_is_given() {
        let mut range = Range::new(&subnet("10.0.0.0/29", "10.0.0.1", None));
        let mut claim = |id: &str| range.claim(None, key(id)).map(|(address, _)| address);
        assert_eq!(claim("a"), Ok(ip("10.0.0.2")));
        assert_eq!(claim("b"), Ok(ip("10.0.0.4")));
        assert_eq!(claim("c"), Ok(ip("10.0.0.5")));
        assert_eq!(claim("d"), Ok(ip("10.0.0.6")));
        assert_eq!(claim("e"), Err(Refusal::Full));
        range.release(ip("10.0.0.4"), &key("a"), None);
        assert_eq!(range.claim(None, key("e")), Err(Refusal::Full));
        range.release(ip("10.0.0.4"), &key("b"), None);
        assert_eq!(range.claim(None, key("e")), Ok((ip("10.0.0.4"), None)));
    }

    #[test]
    fn addresses_rest_until_their_interface_has_gone() {
        let mut range = Range::new(&subnet("10.0.0.0/29", "10.0.0.1", None));
        range.claim(None, key("a")).unwrap();
        range.release(ip("10.0.0.2"), &key("a"), Some("veth1"));
        assert_eq!(range.claim(None, key("b")), Ok((ip("10.0.0.4"), None)));
        range.gone("veth1");
        assert_eq!(range.claim(None, key("c")), Ok((ip("10.0.0.2"), None)));
        range.release(ip("10.0.0.2"), &key("c"), Some("veth2"));
        for (id, address) in [("d", "10.0.0.5"), ("e", "10.0.0.6")] {
            assert_eq!(range.claim(None, key(id)), Ok((ip(address), None)), "{id}");
        }
        // With none left, and for who asks for it: whoever had it is still to go.
        let veth = |number: u8| Some(format!("veth{number}"));
        assert_eq!(range.claim(None, key("f")), Ok((ip("10.0.0.2"), veth(2))));
        range.release(ip("10.0.0.2"), &key("f"), Some("veth3"));
        let wanted = Some(ip("10.0.0.2"));
        assert_eq!(range.claim(wanted, key("g")), Ok((ip("10.0.0.2"), veth(3))));
    }

    #[test]
    fn who_asks_for_one_gets_it_or_hears_who_has_it() {
        let mut range = Range::new(&subnet("10.0.0.0/24", "10.0.0.1", Some("10.0.0.128/25")));
        assert_eq!(range.claim(None, key("a")), Ok((ip("10.0.0.128"), None)));
        assert_eq!(range.claim(Some(ip("10.0.0.9")), key("b")), Ok((ip("10.0.0.9"), None)));
        let mut refused = |text: &str| range.claim(Some(ip(text)), key("c")).unwrap_err();
        assert_eq!(refused("10.0.0.9"), Refusal::Taken(Taker::Container(key("b"))));
        assert_eq!(refused("10.0.0.1"), Refusal::Taken(Taker::Gateway));
        assert_eq!(refused("10.0.0.3"), Refusal::Taken(Taker::Reserved("printer".into())));
        for outside in ["10.0.0.0", "10.0.0.255", "10.0.1.1", "fd00::1"] {
            assert_eq!(refused(outside), Refusal::Outside, "{outside}");
        }
        assert!(!range.keep(ip("10.0.0.9"), key("c")));
        assert!(range.keep(ip("10.0.0.10"), key("c")));
    }

    #[test]
    fn addresses_of_the_host_are_not_given() {
        let mut range = Range::new(&subnet("10.0.0.0/29", "10.0.0.1", None));
        let host = ["10.0.0.1", "10.0.0.2", "10.0.9.4", "::a00:5"].map(ip);
        range.keep_from(&host);
        assert_eq!(range.claim(None, key("a")), Ok((ip("10.0.0.4"), None)));
        let mut refused = |text: &str| range.claim(Some(ip(text)), key("b")).unwrap_err();
        assert_eq!(refused("10.0.0.2"), Refusal::Taken(Taker::Host));
        assert_eq!(refused("10.0.0.1"), Refusal::Taken(Taker::Gateway));
        range.keep_from(&[]);
        assert_eq!(range.claim(None, key("b")), Ok((ip("10.0.0.2"), None)));
    }

    #[test]
    fn ipv6_begins_behind_the_router() {
        let subnet = Subnet {
            subnet: "fd00:1::/64".parse().unwrap(),
            gateway: Some(ip("fd00:1::1")),
            ip_range: None,
            reserved: BTreeMap::new(),
        };
        let mut range = Range::new(&subnet);
        assert_eq!(range.claim(None, key("a")), Ok((ip("fd00:1::2"), None)));
        let last = ip("fd00:1::ffff:ffff:ffff:ffff");
        assert_eq!(range.claim(Some(last), key("b")), Ok((last, None)));
        assert_eq!(range.claim(Some(ip("fd00:1::")), key("c")), Err(Refusal::Outside));
    }

    #[test]
    fn two_addresses_are_a_subnet() {
        let mut range = Range::new(&subnet("10.0.0.0/31", "10.0.0.0", None));
        assert_eq!(range.claim(None, key("a")), Ok((ip("10.0.0.1"), None)));
        assert_eq!(range.claim(None, key("b")), Err(Refusal::Full));
    }
}
