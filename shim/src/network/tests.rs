use super::*;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::LocalSet;

const LIMIT: Duration = Duration::from_secs(10);
/// Asks for the address of `web`.
const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

/// The daemon's end.
struct Daemon(UnixStream);

impl Daemon {
    fn to(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let address = UnixAddr::new(path).unwrap();
        nix::sys::socket::connect(fd.as_raw_fd(), &address).unwrap();
        let stream = std::os::unix::net::UnixStream::from(fd);
        Self(UnixStream::from_std(stream).unwrap())
    }

    async fn say(&self, message: &str, fd: Option<BorrowedFd<'_>>) -> String {
        sys::send(self.0.as_fd(), message.as_bytes(), fd).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let receive = || sys::receive(self.0.as_fd(), &mut buffer);
        let answer = self.0.async_io(Interest::READABLE, receive);
        let (length, _) = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

fn server() -> (tempfile::TempDir, Server, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.sock");
    let server = Server::bind(&path).unwrap();
    let daemon = Daemon::to(&path);
    (dir, server, daemon)
}

/// What a container listens on: says who it is, then what it is told, backwards.
async fn target(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                stream.write_all(name.as_bytes()).await.unwrap();
                let mut told = Vec::new();
                stream.read_to_end(&mut told).await.unwrap();
                told.reverse();
                let _ = stream.write_all(&told).await;
            });
        }
    });
    address
}

async fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn connections_are_carried() {
    let test = async {
        let (dir, server, daemon) = server();
        let host = std::net::TcpListener::bind("[::1]:0").unwrap();
        let at = host.local_addr().unwrap();
        let (one, two) = (target("one").await, target("two").await);
        let relay = format!("relay tcp {at} {one}");
        assert_eq!(daemon.say(&relay, Some(host.as_fd())).await, "ok");
        drop(host);
        assert_eq!(daemon.say("list", None).await, format!("ok {relay}"));
        assert_eq!(daemon.say("list 1", None).await, "ok");
        let mut client = TcpStream::connect(at).await.unwrap();
        assert_eq!(read(&mut client, 3).await, "one");
        // More than pipes and sockets have room for, each way.
        let much: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
        client.write_all(&much).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        let read_back = client.read_to_end(&mut back);
        tokio::time::timeout(LIMIT, read_back).await.unwrap().unwrap();
        back.reverse();
        assert!(back == much);

        assert_eq!(daemon.say(&format!("relay tcp {at} {two}"), None).await, "ok");
        let mut stays = TcpStream::connect(at).await.unwrap();
        assert_eq!(read(&mut stays, 3).await, "two");
        assert_eq!(daemon.say(&format!("drop tcp {at}"), None).await, "ok");
        assert_eq!(daemon.say(&format!("drop tcp {at}"), None).await, "ok");
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stays.write_all(b"ab").await.unwrap();
        stays.shutdown().await.unwrap();
        assert_eq!(read(&mut stays, 2).await, "ba");
        assert_eq!(daemon.say("list", None).await, "ok");

        drop(server);
        assert!(!dir.path().join("n.sock").exists());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_end_ends_all() {
    let test = async {
        let (_dir, server, daemon) = server();
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = host.local_addr().unwrap();
        let to = target("one").await;
        daemon.say(&format!("relay tcp {at} {to}"), Some(host.as_fd())).await;
        drop(host);
        let mut client = TcpStream::connect(at).await.unwrap();
        assert_eq!(read(&mut client, 3).await, "one");
        drop(server);
        let rest = tokio::time::timeout(LIMIT, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(rest.unwrap_or(0), 0);
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_container_that_does_not_listen_refuses() {
    let test = async {
        let (_dir, _server, daemon) = server();
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = host.local_addr().unwrap();
        let nobody = {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap()
        };
        daemon.say(&format!("relay tcp {at} {nobody}"), Some(host.as_fd())).await;
        let mut client = TcpStream::connect(at).await.unwrap();
        let end = tokio::time::timeout(LIMIT, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn datagrams_find_their_way_back() {
    let test = async {
        let (_dir, _server, daemon) = server();
        let host = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let at = host.local_addr().unwrap();
        let container = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let relay = format!("relay udp {at} {}", container.local_addr().unwrap());
        assert_eq!(daemon.say(&relay, Some(host.as_fd())).await, "ok");
        drop(host);
        let mut clients = Vec::new();
        for n in 0..3u8 {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Connected: an answer from another address is not taken.
            client.connect(("127.0.0.2", at.port())).await.unwrap();
            client.send(&[n]).await.unwrap();
            clients.push(client);
        }
        let mut buffer = [0; 16];
        for _ in 0..3 {
            let received = container.recv_from(&mut buffer);
            let (length, from) = tokio::time::timeout(LIMIT, received).await.unwrap().unwrap();
            assert_eq!(length, 1);
            container.send_to(&[buffer[0] + 10], from).await.unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let received = client.recv(&mut buffer);
            let length = tokio::time::timeout(LIMIT, received).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], [n as u8 + 10]);
        }
        assert_eq!(daemon.say(&format!("drop udp {at}"), None).await, "ok");
        // Its port is free at once.
        while std::net::UdpSocket::bind(at).is_err() {
            tokio::task::yield_now().await;
        }
    };
    LocalSet::new().run_until(test).await;
}

/// How many datagrams there are as soon as there is one, and who sent the last.
async fn arrived(socket: &UdpSocket) -> (usize, SocketAddr) {
    tokio::time::timeout(LIMIT, socket.readable()).await.unwrap().unwrap();
    let mut buffer = [0; 16];
    let (mut count, mut from) = (0, None);
    while let Ok((_, sender)) = socket.try_recv_from(&mut buffer) {
        (count, from) = (count + 1, Some(sender));
    }
    (count, from.unwrap())
}

#[tokio::test]
async fn a_flood_of_datagrams_lets_others_go_on() {
    // More than a burst, and nothing that sockets have no room for.
    const FLOOD: usize = 128;
    let test = async {
        let (_dir, _server, daemon) = server();
        let [host, client, container] =
            [(); 3].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let [at, target] = [&host, &container].map(|socket| socket.local_addr().unwrap());
        let [arriving, back] = [&container, &client].map(|socket| {
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket.try_clone().unwrap()).unwrap()
        });
        for _ in 0..FLOOD {
            client.send_to(b"there", at).unwrap();
        }
        let relay = format!("relay udp {at} {target}");
        assert_eq!(daemon.say(&relay, Some(host.as_fd())).await, "ok");
        let (there, session) = arrived(&arriving).await;
        assert!((1..FLOOD).contains(&there), "{there}");
        for _ in 0..FLOOD {
            container.send_to(b"back", session).unwrap();
        }
        let (back, _) = arrived(&back).await;
        assert!((1..FLOOD).contains(&back), "{back}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_is_refused() {
    let test = async {
        let (_dir, _server, daemon) = server();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (stream, plain) = (Some(listener.as_fd()), Some(socket.as_fd()));
        for (message, fd) in [
            ("nonsense".to_owned(), None),
            (format!("relay tcp {at} 10.0.0.2:80"), None),
            (format!("relay tcp {at} 10.0.0.2:80"), plain),
            (format!("relay udp {at} 10.0.0.2:80"), stream),
            ("relay tcp 127.0.0.1:1 10.0.0.2:80".to_owned(), stream),
            ("names udp".to_owned(), None),
            ("names udp".to_owned(), stream),
            ("names tcp".to_owned(), plain),
            ("list".to_owned(), plain),
            ("resolver /nonexistent/settings".to_owned(), None),
            ("x".repeat(MAX_MESSAGE + 1), None),
        ] {
            let answer = daemon.say(&message, fd).await;
            assert!(answer.starts_with("error "), "{message}: {answer}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn names_are_answered_where_the_daemon_says() {
    let test = async {
        let (dir, _server, daemon) = server();
        let names = dir.path().join("names");
        std::fs::write(&names, "host web 10.0.0.2\n").unwrap();
        let settings = dir.path().join("resolver");
        std::fs::write(&settings, format!("names {}\ninternal\n", names.display())).unwrap();
        let answer = daemon.say(&format!("resolver {}", settings.display()), None).await;
        assert_eq!(answer, "ok");
        // Handed over twice: the second one counts.
        let mut at = None;
        for _ in 0..2 {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            at = socket.local_addr().ok();
            assert_eq!(daemon.say("names udp", Some(socket.as_fd())).await, "ok");
        }
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(at.unwrap()).await.unwrap();
        client.send(QUERY).await.unwrap();
        let mut buffer = [0; 512];
        let received = client.recv(&mut buffer);
        let length = tokio::time::timeout(LIMIT, received).await.unwrap().unwrap();
        assert_eq!(buffer[..2], *b"\x12\x34");
        assert_eq!(buffer[length - 4..length], [10, 0, 0, 2]);
    };
    LocalSet::new().run_until(test).await;
}

/// Sockets in a network namespace of their own; none without the rights for it.
fn elsewhere() -> Option<[UdpSocket; 3]> {
    let made = std::thread::spawn(|| {
        sys::unshare(libc::CLONE_NEWNET).ok()?;
        let mut up = std::process::Command::new("ip");
        assert!(up.args(["link", "set", "lo", "up"]).status().unwrap().success());
        Some([(); 3].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()))
    });
    let sockets = made.join().unwrap()?;
    Some(sockets.map(|socket| {
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }))
}

#[tokio::test]
async fn the_containers_own_servers_are_asked_from_its_network() {
    let test = async {
        let Some([names, client, own]) = elsewhere() else { return };
        let (dir, _server, daemon) = server();
        let hosts = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let settings = dir.path().join("resolver");
        let listed = dir.path().join("resolv.conf");
        let text = format!("nameserver {}\n", hosts.local_addr().unwrap());
        std::fs::write(&listed, text).unwrap();
        let message = format!("resolver {}", settings.display());
        assert_eq!(daemon.say("names udp", Some(names.as_fd())).await, "ok");
        client.connect(names.local_addr().unwrap()).await.unwrap();
        for (line, server) in [
            (format!("upstream {}\n", own.local_addr().unwrap()), &own),
            (format!("upstreams {}\n", listed.display()), &hosts),
        ] {
            std::fs::write(&settings, line).unwrap();
            assert_eq!(daemon.say(&message, None).await, "ok");
            client.send(QUERY).await.unwrap();
            let mut buffer = [0; 512];
            let received = tokio::time::timeout(LIMIT, server.recv_from(&mut buffer));
            let (length, from) = received.await.unwrap().unwrap();
            // A response: there is none.
            buffer[2] |= 0x80;
            server.send_to(&buffer[..length], from).await.unwrap();
            let received = tokio::time::timeout(LIMIT, client.recv(&mut buffer));
            received.await.unwrap().unwrap();
            assert_eq!((&buffer[..2], buffer[3] & 0x0f), (&b"\x12\x34"[..], 0));
        }
        // Where it went to make a socket is not where it stayed.
        assert!(std::net::UdpSocket::bind(hosts.local_addr().unwrap()).is_err());
    };
    LocalSet::new().run_until(test).await;
}
