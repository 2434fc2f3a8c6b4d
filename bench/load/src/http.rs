//! Just enough HTTP/1.1: requests made beforehand, answers read by their content-length.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use rustix::event::{PollFd, PollFlags, poll};

pub struct Target {
    pub authority: String,
    pub path: String,
}

impl Target {
    /// Of this machine only: nobody should load somebody else's server by a slip.
    pub fn parse(url: &str) -> Option<Target> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let local = authority.starts_with("127.0.0.1:") || authority.starts_with("localhost:");
        local.then(|| Target { authority: authority.into(), path: if path.is_empty() { "/".into() } else { path.into() } })
    }
}

pub fn format_post(target: &Target, path: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}", target.authority)
        .into_bytes()
}

pub fn format_get(target: &Target, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.authority).into_bytes()
}

/// One connection with at most one request on its way.
pub struct Connection {
    authority: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    body: std::ops::Range<usize>,
}

impl Connection {
    pub fn open(target: &Target) -> Connection {
        let authority = target.authority.clone();
        Connection { stream: connect(&authority), authority, buffer: Vec::with_capacity(16384), body: 0..0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    pub fn send(&mut self, mut bytes: &[u8]) {
        self.buffer.clear();
        // Servers close what lies idle (uvicorn after five seconds): that is theirs to do, not a failure.
        if matches!(self.stream.peek(&mut [0]), Ok(0)) {
            self.stream = connect(&self.authority);
        }
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.block(PollFlags::OUT),
                Err(e) => crate::fail(&format!("while sending: {e}")),
            }
        }
    }

    /// Reads what is there; the status once the answer is whole.
    pub fn receive(&mut self) -> Option<u16> {
        let mut chunk = [0; 16384];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => crate::fail("the server closed a connection in use"),
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    if let Some(status) = self.whole() {
                        return Some(status);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) => crate::fail(&format!("while receiving: {e}")),
            }
        }
    }

    pub fn wait(&mut self) -> u16 {
        loop {
            if let Some(status) = self.receive() {
                return status;
            }
            self.block(PollFlags::IN);
        }
    }

    fn whole(&mut self) -> Option<u16> {
        let head = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap_or_else(|_| crate::fail("an answer's head is no text"));
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.unwrap_or_else(|| crate::fail("an answer has no content-length"));
        self.body = head..head + length;
        let status = text.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| crate::fail("an answer has no status"));
        (self.buffer.len() >= head + length).then_some(status)
    }

    fn block(&self, flags: PollFlags) {
        let _ = poll(&mut [PollFd::new(&self.stream, flags)], None);
    }
}

fn connect(authority: &str) -> TcpStream {
    let opened = TcpStream::connect(authority).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    opened.unwrap_or_else(|e| crate::fail(&format!("{authority}: {e}")))
}
