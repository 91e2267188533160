//! A client that looks closely: which server answers, which cookie it gives, how long the answer is.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(5);

/// What all servers' answers begin with; the server's name follows.
pub(crate) const BODY: &str = "answer of ";
/// How long they are.
pub(crate) const BODY_LENGTH: u64 = 18;

/// A client that has its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// Name and value.
    pub(crate) cookie: String,
    pub(crate) server: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Name and value of the cookie that came with it.
    pub(crate) cookie: Option<String>,
    pub(crate) body: String,
    /// All of its bytes.
    pub(crate) length: u64,
}

impl Answer {
    /// Who answered.
    pub(crate) fn server(&self) -> Result<&str> {
        let server = self.body.strip_prefix(BODY).filter(|_| self.status == 200);
        server.with_context(|| format!("no answer of a server: {self:?}"))
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Probe {
    stream: TcpStream,
    at: SocketAddr,
}

impl Probe {
    /// Connects. To be called in the namespace.
    pub(crate) fn open(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, at })
    }

    /// Asks with these lines in the header.
    pub(crate) fn ask(&mut self, fields: &str) -> Result<Answer> {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.at.ip());
        self.stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some(answer) = parse(&bytes)? {
                return Ok(answer);
            }
            match self.stream.read(&mut part)? {
                0 => bail!("the answer ends after {:?}", String::from_utf8_lossy(&bytes)),
                length => bytes.extend_from_slice(&part[..length]),
            }
        }
    }
}

impl Visitor {
    /// The lines of the header that say who it is, and which server must answer.
    pub(crate) fn fields(&self) -> String {
        format!("Cookie: {}\r\nX-Server: {}\r\n", self.cookie, self.server)
    }
}

/// One client for every server, each with the cookie it was given.
pub(crate) fn visitors(at: SocketAddr, servers: usize) -> Result<Vec<Visitor>> {
    let mut visitors: Vec<Visitor> = Vec::new();
    for _ in 0..200 {
        let answer = Probe::open(at)?.ask("")?;
        let server = answer.server()?.to_owned();
        let cookie = answer.cookie.context("a client without a cookie gets none")?;
        if visitors.iter().all(|known| known.server != server) {
            visitors.push(Visitor { cookie, server });
        }
        if visitors.len() == servers {
            return Ok(visitors);
        }
    }
    bail!("only {} of {servers} servers have answered", visitors.len())
}

/// Sees to it that a client meets its server and no other, and gives the length of the answer to a request with `fields`.
pub(crate) fn check(at: SocketAddr, visitor: &Visitor, fields: &str) -> Result<u64> {
    let fields = format!("{}{fields}", visitor.fields());
    let mut length = 0;
    for _ in 0..8 {
        let answer = Probe::open(at)?.ask(&fields)?;
        ensure!(answer.server()? == visitor.server, "{visitor:?} got {answer:?}");
        ensure!(answer.cookie.is_none(), "{visitor:?} got another cookie: {answer:?}");
        length = answer.length;
    }
    // Were it otherwise, nothing would show that a request went to the wrong server.
    let wrong = Visitor { server: "server-0".to_owned(), ..visitor.clone() };
    let answer = Probe::open(at)?.ask(&wrong.fields())?;
    ensure!(answer.status == 409, "a request for another server got {answer:?}");
    Ok(length)
}

/// The answer that the bytes are, once they are a whole one.
fn parse(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let body: usize = field("content-length").context("an answer without a length")?.parse()?;
    if bytes.len() < end + 4 + body {
        return Ok(None);
    }
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    let cookie = field("set-cookie").and_then(|line| line.split(';').next()).map(str::to_owned);
    let body = String::from_utf8_lossy(&bytes[end + 4..]).into_owned();
    Ok(Some(Answer { status, cookie, body, length: bytes.len() as u64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nSet-Cookie: LB=x; Path=/\r\ncontent-length: 18\r\n\r\nanswer of server-1";
        assert!(parse(&whole[..whole.len() - 1]).unwrap().is_none());
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!(
            (answer.server().unwrap(), answer.cookie.as_deref()),
            ("server-1", Some("LB=x"))
        );
        assert_eq!(answer.length, whole.len() as u64);
        assert_eq!(answer.body.len() as u64, BODY_LENGTH);
    }
}
