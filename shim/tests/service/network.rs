//! Sockets that the shim keeps for its container.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    socket,
};

use crate::support::{Host, LIMIT, run};

/// Says something to the shim, as the daemon does; gives its answer.
fn say(path: &Path, message: &str, listener: Option<&TcpListener>) -> String {
    let kind = SockType::SeqPacket;
    let shim = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(shim.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    let fds: Vec<_> = listener.iter().map(|listener| listener.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let text = [IoSlice::new(message.as_bytes())];
    let flags = MsgFlags::empty();
    sendmsg::<()>(shim.as_raw_fd(), &text, control, flags, None).unwrap();
    let mut answer = [0; 4096];
    let length = recv(shim.as_raw_fd(), &mut answer, flags).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

#[test]
fn a_port_is_served_until_the_container_ends() {
    run(async {
        let mut host = Host::new(&["sleep", "1000"], false);
        let path = host.path("n.sock");
        let uri = host.gantry_uri(&format!("&network={}", path.display()));
        let task = host.created(&uri, false).await;
        let container = TcpListener::bind("127.0.0.1:0").unwrap();
        let published = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = published.local_addr().unwrap();
        let relay = format!("relay tcp {at} {}", container.local_addr().unwrap());
        assert_eq!(say(&path, &relay, Some(&published)), "ok");
        drop(published);
        assert_eq!(say(&path, "list", None), format!("ok {relay}"));
        host.start(&task, "").await.unwrap();

        let mut client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let mut server = container.accept().unwrap().0;
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");

        host.kill(&task, "", 9, false).await.unwrap();
        assert_eq!(host.wait(&task, "").await, 137);
        assert_eq!(client.read(&mut heard).unwrap_or(0), 0);
        let since = Instant::now();
        while TcpStream::connect(at).is_ok() {
            assert!(since.elapsed() < LIMIT, "the port is still served");
        }
        assert!(!path.exists());
        host.delete(&task, "").await.unwrap();
        host.shutdown(&task).await;
    });
}
