use std::fmt::Write as _;
use std::net::IpAddr;

use gantry_grpc::gantry::engine::v1 as api;
use serde_json::{Value, json};

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::format::Format;
use crate::options::ports::{name, one};
use crate::{ports, table};

/// Titles of the table of chains.
const TITLES: [&str; 7] = ["FAMILY", "TABLE", "CHAIN", "HOOK", "PRIORITY", "VERDICT", "REASON"];

/// Say what becomes of packets to a port of the host, and what decides
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// Print it with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Port of the host, at any of its addresses unless it names one; of TCP unless it says something else
    #[arg(value_name = "[ADDRESS:]PORT[/PROTOCOL]", value_parser = place)]
    port: Place,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Any when `None`.
    address: Option<IpAddr>,
    port: u16,
    protocol: api::PortProtocol,
}

/// Reads `[ADDRESS:]PORT[/PROTOCOL]`.
fn place(text: &str) -> Result<Place, String> {
    let (address, port) = match text.rsplit_once(':') {
        None => (None, text),
        Some((address, port)) => {
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let bare = bare.unwrap_or(address);
            let read = bare.parse::<IpAddr>();
            let read = read.map_err(|_| format!("invalid IP address: {bare}"))?;
            (Some(read.to_canonical()), port)
        }
    };
    let (port, protocol) = one(port)?;
    Ok(Place { address, port, protocol })
}

impl Place {
    /// `127.0.0.1:8080/tcp`.
    fn shown(self) -> String {
        let Self { address, port, protocol } = self;
        let port = format!("{port}/{}", name(protocol));
        match address {
            Some(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            Some(IpAddr::V4(address)) => format!("{address}:{port}"),
            None => port,
        }
    }

    fn host_ip(self) -> String {
        self.address.map(|address| address.to_string()).unwrap_or_default()
    }
}

impl Explain {
    pub(super) async fn execute(self, context: Context<'_>) -> Outcome {
        let place = self.port;
        let client = context.connect().await?;
        let request = api::ExplainPortRequest {
            port: place.port.into(),
            protocol: place.protocol.into(),
            host_ip: place.host_ip(),
        };
        let answer = client.answer(client.networks().explain(request).await)?;
        let told = Told { place, answer: &answer };
        let text = match Format::of(self.format).object(&told.object())? {
            Some(text) => text,
            None => told.text(),
        };
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }
}

/// What the daemon says of a port.
struct Told<'a> {
    place: Place,
    answer: &'a api::ExplainPortResponse,
}

impl Told<'_> {
    /// Published ports with those that have them.
    fn published(&self) -> impl Iterator<Item = (&api::Port, &str)> {
        let names = self.answer.containers.iter().map(String::as_str);
        self.answer.ports.iter().zip(names.chain(std::iter::repeat("")))
    }

    fn text(&self) -> String {
        let Self { place, answer } = self;
        let port = place.shown();
        let mut text = String::new();
        for (published, container) in self.published() {
            let _ = writeln!(text, "{container}: {}", ports::mapping(published));
        }
        if answer.ports.is_empty() {
            let _ = match answer.listener.as_str() {
                "" => writeln!(text, "No container has port {port}."),
                own => writeln!(text, "No container has port {port}: {own} listens there."),
            };
        }
        if !answer.chains.is_empty() {
            let titles = TITLES.map(str::to_owned).to_vec();
            let lines: Vec<_> =
                [titles].into_iter().chain(answer.chains.iter().map(line)).collect();
            text.push('\n');
            text += &table::lines(&lines);
        }
        text.push('\n');
        let _ = writeln!(text, "Packets from outside {}.", self.outcome());
        for chain in answer.chains.iter().filter(|chain| !chain.remedy.is_empty()) {
            let place = format!("{} {} {}", chain.family, chain.table, chain.chain);
            let _ = writeln!(text, "To let them pass {}:", table::plain(&place));
            for command in chain.remedy.lines() {
                let _ = writeln!(text, "  {}", table::plain(command));
            }
        }
        text
    }

    /// What becomes of packets from outside.
    fn outcome(&self) -> &'static str {
        let answer = self.answer;
        let any = |verdict: &str| answer.chains.iter().any(|chain| chain.verdict == verdict);
        match answer.reachable {
            true if any("unknown") => "may get in: what a chain does could not be judged",
            // What drops all of them lets none in: it is about IPv4, or about IPv6.
            true if any("drop") => {
                "get in by one of IPv4 and IPv6: the chains say which is dropped"
            }
            true => "get in",
            false if answer.ports.is_empty() && answer.listener.is_empty() => "reach nobody",
            false => "don't get in",
        }
    }

    fn object(&self) -> Value {
        let published = self.published().map(|(port, container)| {
            json!({
                "Container": container,
                "HostIp": port.host_ip,
                "HostPort": port.host_port,
                "ContainerPort": port.container_port,
                "Protocol": name(port.protocol()),
            })
        });
        let chains = self.answer.chains.iter().map(|chain| {
            json!({
                "Family": chain.family,
                "Table": chain.table,
                "Chain": chain.chain,
                "Hook": chain.hook,
                "Priority": chain.priority,
                "Verdict": chain.verdict,
                "Reason": chain.reason,
                "Remedy": chain.remedy,
            })
        });
        json!({
            "HostIp": self.place.host_ip(),
            "Port": self.place.port,
            "Protocol": name(self.place.protocol),
            "Reachable": self.answer.reachable,
            "Listener": self.answer.listener,
            "Published": published.collect::<Vec<_>>(),
            "Chains": chains.collect::<Vec<_>>(),
        })
    }
}

/// A chain in the table. Names in it are whose rules they are.
fn line(chain: &api::ExplainedChain) -> Vec<String> {
    let priority = chain.priority.to_string();
    let api::ExplainedChain { family, table, chain, hook, verdict, reason, .. } = chain;
    [family, table, chain, hook, &priority, verdict, reason].map(|cell| table::plain(cell)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, verdict: &str, reason: &str, remedy: &str) -> api::ExplainedChain {
        api::ExplainedChain {
            family: "ip".to_owned(),
            table: table.to_owned(),
            chain: "FORWARD".to_owned(),
            hook: "forward".to_owned(),
            priority: 0,
            verdict: verdict.to_owned(),
            reason: reason.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn answer() -> api::ExplainPortResponse {
        let port = api::Port {
            host_ip: "0.0.0.0".to_owned(),
            host_port: 8080,
            container_port: 80,
            protocol: api::PortProtocol::Tcp.into(),
        };
        api::ExplainPortResponse {
            ports: vec![port],
            containers: vec!["web".to_owned()],
            chains: vec![
                chain("gantry", "accept", "ct status dnat accept", ""),
                chain("filter", "drop", "policy drop", "nft insert rule ip filter FORWARD accept"),
            ],
            ..Default::default()
        }
    }

    fn told(answer: &api::ExplainPortResponse) -> Told<'_> {
        Told { place: place("8080").unwrap(), answer }
    }

    #[test]
    fn places_have_an_address_or_none() {
        for (text, shown) in [
            ("8080", "8080/tcp"),
            ("127.0.0.1:8080", "127.0.0.1:8080/tcp"),
            ("[::1]:8080", "[::1]:8080/tcp"),
            ("192.0.2.1:8600/udp", "192.0.2.1:8600/udp"),
        ] {
            assert_eq!(place(text).unwrap().shown(), shown);
        }
        assert_eq!(place("x:8080"), Err("invalid IP address: x".to_owned()));
        assert_eq!(place("127.0.0.1:x"), Err("invalid port (x)".to_owned()));
    }

    #[test]
    fn what_decides_is_told() {
        let expected = "\
web: 80/tcp -> 0.0.0.0:8080

FAMILY    TABLE     CHAIN     HOOK      PRIORITY   VERDICT   REASON
ip        gantry    FORWARD   forward   0          accept    ct status dnat accept
ip        filter    FORWARD   forward   0          drop      policy drop

Packets from outside don't get in.
To let them pass ip filter FORWARD:
  nft insert rule ip filter FORWARD accept
";
        assert_eq!(told(&answer()).text(), expected);
    }

    #[test]
    fn ports_that_nobody_has() {
        let nobody = api::ExplainPortResponse::default();
        let said = "No container has port 8080/tcp.\n\nPackets from outside reach nobody.\n";
        assert_eq!(told(&nobody).text(), said);
        let host = api::ExplainPortResponse {
            listener: "nginx (pid 812)".to_owned(),
            reachable: true,
            ..Default::default()
        };
        let said = "No container has port 8080/tcp: nginx (pid 812) listens there.\n\n\
                    Packets from outside get in.\n";
        assert_eq!(told(&host).text(), said);
    }

    #[test]
    fn what_is_not_certain_is_not_told_as_if_it_was() {
        let mut some = answer();
        some.reachable = true;
        let said = "\nPackets from outside get in by one of IPv4 and IPv6: the chains say which is \
                    dropped.\n";
        assert!(told(&some).text().contains(said), "{}", told(&some).text());
        some.chains[0].verdict = "unknown".to_owned();
        let said = "\nPackets from outside may get in: what a chain does could not be judged.\n";
        assert!(told(&some).text().contains(said), "{}", told(&some).text());
    }

    #[test]
    fn templates_see_it() {
        let shown = |format: &str| {
            Format::of(Some(format.to_owned())).object(&told(&answer()).object()).unwrap()
        };
        assert_eq!(
            shown("{{.Reachable}}{{range .Chains}} {{.Table}}{{end}}").unwrap(),
            "false gantry filter\n"
        );
        let format = "{{range .Published}}{{.Container}} {{.HostPort}}{{end}}";
        assert_eq!(shown(format).unwrap(), "web 8080\n");
    }
}
