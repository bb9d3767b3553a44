use super::*;
use hickory_proto::op::{Edns, MessageType, OpCode, Query as Question};
use std::cell::Cell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::LocalSet;

const LIMIT: Duration = Duration::from_secs(20);

/// A resolver with its files, and a name server that it asks.
struct World {
    dir: tempfile::TempDir,
    resolver: Rc<Resolver>,
    closed: CancellationToken,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl World {
    /// `settings` follow the names.
    async fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = "host web 10.0.0.2\nhost web 10.0.0.3\nhost web fd00::2\nhost four 10.0.0.4\n\
                     pointer 10.0.0.2 web.app-net\npointer fd00::2 web.app-net\n";
        std::fs::write(dir.path().join("names"), names).unwrap();
        let path = dir.path().join("resolver");
        let text = format!("names {}\n{settings}", dir.path().join("names").display());
        std::fs::write(&path, text).unwrap();
        let closed = CancellationToken::new();
        let resolver = Rc::new(Resolver::new(closed.clone()));
        resolver.configure(&path).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (udp_at, tcp_at) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
        crate::network::spawn(&closed, udp(socket, resolver.clone()));
        crate::network::spawn(&closed, tcp(listener, resolver.clone()));
        Self { dir, resolver, closed, udp: udp_at, tcp: tcp_at }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&asked(name, kind)).await
    }

    async fn send(&self, message: &Message) -> Message {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&message.to_vec().unwrap(), self.udp).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = tokio::time::timeout(LIMIT, client.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn ask_by_tcp(&self, messages: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        for message in messages {
            let bytes = message.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
        let mut answers = Vec::new();
        for _ in messages {
            let length = tokio::time::timeout(LIMIT, stream.read_u16()).await.unwrap().unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            answers.push(Message::from_vec(&bytes).unwrap());
        }
        answers
    }
}

fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut found: Vec<_> = message.answers.iter().filter_map(|r| r.data.ip_addr()).collect();
    found.sort_unstable();
    found
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// A name server: it answers queries with what `answer` makes of them, counted.
async fn name_server<F>(answer: F) -> (SocketAddr, Rc<Cell<usize>>)
where
    F: Fn(&mut Message, Transport) + 'static,
{
    // The same port for both.
    let (socket, listener) = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            break (socket, listener);
        }
    };
    name_server_on(socket, listener, answer)
}

fn name_server_on<F>(
    socket: UdpSocket,
    listener: TcpListener,
    answer: F,
) -> (SocketAddr, Rc<Cell<usize>>)
where
    F: Fn(&mut Message, Transport) + 'static,
{
    let address = socket.local_addr().unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = count.clone();
    let respond = move |packet: &[u8], transport| {
        counted.set(counted.get() + 1);
        let query = Message::from_vec(packet).unwrap();
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.queries = query.queries;
        message.edns = query.edns;
        answer(&mut message, transport);
        message.to_vec().unwrap()
    };
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    let (length, client) = received.unwrap();
                    let bytes = respond(&buffer[..length], Transport::Udp);
                    socket.send_to(&bytes, client).await.unwrap();
                }
                accepted = listener.accept() => {
                    let mut stream = accepted.unwrap().0;
                    let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let bytes = respond(&bytes, Transport::Tcp);
                    stream.write_u16(bytes.len() as u16).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }
    });
    (address, count)
}

fn add(message: &mut Message, records: u8) {
    let name = message.queries[0].name.clone();
    for last in 0..records {
        let data = RData::from(IpAddr::from([192, 0, 2, last]));
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
}

#[tokio::test]
async fn names_of_its_networks() {
    let test = async {
        let world = World::new("internal\n").await;
        let answer = world.ask("WEB.", RecordType::A).await;
        assert_eq!(addresses(&answer), [IpAddr::from([10, 0, 0, 2]), [10, 0, 0, 3].into()]);
        assert!(answer.answers.iter().all(|r| r.name.to_ascii() == "WEB." && r.ttl == TTL));
        assert_eq!(addresses(&world.ask("web.", RecordType::AAAA).await).len(), 1);
        for (name, kind) in [("four.", RecordType::AAAA), ("web.", RecordType::MX)] {
            let none = world.ask(name, kind).await;
            assert_eq!((code(&none), none.answers.len()), (ResponseCode::NoError, 0));
        }
        let six = format!("2.{}d.f.ip6.arpa.", "0.".repeat(29));
        for name in ["2.0.0.10.in-addr.arpa.", six.as_str()] {
            let answer = world.ask(name, RecordType::PTR).await;
            let [record] = &answer.answers[..] else { panic!("{answer}") };
            let RData::PTR(name) = &record.data else { panic!("{answer}") };
            assert_eq!(name.0.to_ascii(), "web.app-net.");
        }
        let outside = world.ask("example.org.", RecordType::A).await;
        assert_eq!(code(&outside), ResponseCode::ServFail);
        let mut orders = std::collections::HashSet::new();
        for _ in 0..64 {
            let answer = world.ask("web.", RecordType::A).await;
            orders.insert(answer.answers[0].data.ip_addr());
        }
        assert_eq!(orders.len(), 2);
        world.closed.cancel();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn changes_count_at_once() {
    let test = async {
        let world = World::new("internal\n").await;
        let path = world.dir.path().join("names");
        for last in 0..50 {
            let new = world.dir.path().join("new");
            std::fs::write(&new, format!("host web 10.1.0.{last}\n")).unwrap();
            std::fs::rename(&new, &path).unwrap();
            let found = addresses(&world.ask("web.", RecordType::A).await);
            assert_eq!(found, [IpAddr::from([10, 1, 0, last])]);
        }
        world.resolver.configure(Path::new("/nonexistent/settings")).unwrap_err();
        assert_eq!(code(&world.ask("web.", RecordType::A).await), ResponseCode::NoError);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn others_are_asked_once() {
    let test = async {
        let (server, count) = name_server(|message, _| {
            if message.queries[0].name.to_ascii().starts_with("none.") {
                message.metadata.response_code = ResponseCode::NXDomain;
            } else {
                add(message, 1);
            }
        })
        .await;
        let world = World::new(&format!("upstream {server}\n")).await;
        let answers = ask_at_once(&world, "Example.org.", 20).await;
        assert!(answers.iter().all(|answer| addresses(answer).len() == 1));
        assert!(answers.iter().all(|answer| answer.queries[0].name.to_ascii() == "Example.org."));
        assert_eq!(count.get(), 1);
        let mut with = asked("example.ORG.", RecordType::A);
        with.set_edns(Edns::new());
        let with = world.send(&with).await;
        assert!(with.edns.is_some() && with.queries[0].name.to_ascii() == "example.ORG.");
        assert!(answers[0].edns.is_none() && answers[0].metadata.recursion_available);
        assert_eq!(count.get(), 1);
        // That there is none is not kept without a word of the zone.
        for asked in 2..4 {
            let none = world.ask("none.example.org.", RecordType::A).await;
            assert_eq!((code(&none), count.get()), (ResponseCode::NXDomain, asked));
        }
        // A name without a dot goes out, too, unless there is an `ndots` of the container's own.
        assert_eq!(addresses(&world.ask("printer.", RecordType::A).await).len(), 1);
        let world = World::new(&format!("upstream {server}\nndots\n")).await;
        let bare = world.ask("printer.", RecordType::A).await;
        assert_eq!((code(&bare), count.get()), (ResponseCode::NXDomain, 4));
    };
    LocalSet::new().run_until(test).await;
}

/// Asks for a name so often at once.
async fn ask_at_once(world: &World, name: &str, times: usize) -> Vec<Message> {
    let sockets: Vec<_> = (0..times)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .map(|socket| {
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket).unwrap()
        })
        .collect();
    for socket in &sockets {
        let bytes = asked(name, RecordType::A).to_vec().unwrap();
        socket.send_to(&bytes, world.udp).await.unwrap();
    }
    let mut answers = Vec::new();
    for socket in &sockets {
        let mut buffer = vec![0; 4096];
        let length = tokio::time::timeout(LIMIT, socket.recv(&mut buffer)).await.unwrap().unwrap();
        answers.push(Message::from_vec(&buffer[..length]).unwrap());
    }
    answers
}

#[tokio::test]
async fn long_answers_come_by_tcp() {
    let test = async {
        let (server, count) = name_server(|message, transport| match transport {
            Transport::Udp => message.metadata.truncation = true,
            Transport::Tcp => add(message, 200),
        })
        .await;
        let world = World::new(&format!("upstream {server}\n")).await;
        let cut = world.ask("example.org.", RecordType::A).await;
        assert!(cut.metadata.truncation && !cut.answers.is_empty());
        let queries = [
            asked("example.org.", RecordType::A),
            asked("web.", RecordType::A),
            asked("example.org.", RecordType::A),
        ];
        let answers = world.ask_by_tcp(&queries).await;
        let mut lengths: Vec<_> = answers.iter().map(|answer| answer.answers.len()).collect();
        lengths.sort_unstable();
        assert_eq!((lengths, count.get()), (vec![2, 200, 200], 2));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn without_tcp_a_part_of_an_answer_is_passed_on() {
    let test = async {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let (server, count) = name_server_on(socket, elsewhere, |message, _| {
            message.metadata.truncation = true;
            add(message, 3);
        });
        let world = World::new(&format!("upstream {server}\n")).await;
        // It is not kept.
        for asked in 1..3 {
            let cut = world.ask("example.org.", RecordType::A).await;
            assert!(cut.metadata.truncation);
            assert_eq!((addresses(&cut).len(), count.get()), (3, asked));
        }
    };
    LocalSet::new().run_until(test).await;
}

/// A client that has sent all these queries.
fn asker(world: &World, queries: impl IntoIterator<Item = Message>) -> UdpSocket {
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for query in queries {
        client.send_to(&query.to_vec().unwrap(), world.udp).unwrap();
    }
    client.set_nonblocking(true).unwrap();
    UdpSocket::from_std(client).unwrap()
}

#[tokio::test]
async fn a_flood_lets_others_go_on() {
    let test = async {
        let world = World::new("internal\n").await;
        // More than a burst, and nothing that sockets have no room for.
        let flood = 160;
        let client = asker(&world, (0..flood).map(|_| asked("web.", RecordType::A)));
        tokio::time::timeout(LIMIT, client.readable()).await.unwrap().unwrap();
        let mut buffer = [0; 512];
        let mut answers = 0;
        while client.try_recv(&mut buffer).is_ok() {
            answers += 1;
        }
        assert!((1..flood).contains(&answers), "{answers}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn more_lookups_than_there_is_room_for_wait() {
    let test = async {
        // It answers when as many as may ask at once have asked.
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            let mut buffer = [0; 512];
            for count in 1.. {
                let (length, client) = server.recv_from(&mut buffer).await.unwrap();
                // A response.
                buffer[2] |= 0x80;
                held.push((buffer[..length].to_vec(), client));
                if count >= 128 {
                    for (packet, client) in held.drain(..) {
                        server.send_to(&packet, client).await.unwrap();
                    }
                }
            }
        });
        let world = World::new(&format!("upstream {address}\n")).await;
        let names = (0..160).map(|n| asked(&format!("n{n}.example."), RecordType::A));
        let client = asker(&world, names);
        let mut buffer = [0; 512];
        for _ in 0..160 {
            let received = tokio::time::timeout(LIMIT, client.recv(&mut buffer));
            let length = received.await.unwrap().unwrap();
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(code(&answer), ResponseCode::NoError);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn another_server_is_asked_when_one_fails() {
    let test = async {
        let (failing, failed) =
            name_server(|m, _| m.metadata.response_code = ResponseCode::ServFail).await;
        let (old, asked_old) = name_server(|message, _| {
            if message.edns.take().is_some() {
                message.metadata.response_code = ResponseCode::FormErr;
                message.queries.clear();
            } else {
                add(message, 3);
            }
        })
        .await;
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent_at = silent.local_addr().unwrap();
        let mut settings = String::new();
        for server in [failing, silent_at, old] {
            writeln!(settings, "upstream {server}").unwrap();
        }
        let world = World::new(&settings).await;
        assert_eq!(addresses(&world.ask("a.example.", RecordType::A).await).len(), 3);
        assert_eq!((failed.get(), asked_old.get()), (1, 2));
        // From then on the one that knows is asked first.
        assert_eq!(addresses(&world.ask("b.example.", RecordType::A).await).len(), 3);
        assert_eq!((failed.get(), asked_old.get()), (1, 4));
        let world = World::new(&format!("upstream {failing}\n")).await;
        let answer = world.ask("c.example.", RecordType::A).await;
        assert_eq!(code(&answer), ResponseCode::ServFail);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn answers_of_strangers_do_not_count() {
    let test = async {
        let (server, _) = name_server(|message, _| {
            message.metadata.id ^= 1;
            add(message, 1);
        })
        .await;
        let world = World::new(&format!("upstream {server}\n")).await;
        let answer = world.ask("example.org.", RecordType::A).await;
        assert_eq!(code(&answer), ResponseCode::ServFail);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn noise_is_survived() {
    let test = async {
        let world = World::new("internal\n").await;
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let query = asked("web.", RecordType::A).to_vec().unwrap();
        for round in 0..500 {
            let mut noise = query.clone();
            for _ in 0..fastrand::usize(1..6) {
                let at = fastrand::usize(..noise.len());
                noise[at] = fastrand::u8(..);
            }
            noise.truncate(fastrand::usize(..=noise.len()));
            client.send_to(&noise, world.udp).await.unwrap();
            if round % 50 == 0 {
                assert_eq!(addresses(&world.ask("web.", RecordType::A).await).len(), 2);
            }
        }
        let mut stream = TcpStream::connect(world.tcp).await.unwrap();
        stream.write_all(&[0xff; 64]).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    };
    LocalSet::new().run_until(test).await;
}
