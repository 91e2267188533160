//! Whether a server answers an echo request, ICMP or ICMPv6.
//!
//! One socket a family serves all targets: a ping socket where the kernel gives one to this user's group
//! (`net.ipv4.ping_group_range`), otherwise a raw one. An answer counts if it comes from the address that was asked and
//! carries the number and the secret of the request.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::oneshot};

use super::{Fault, socket_fault};
use crate::health::sys;

/// Of a request, and of the answer: the header of an echo, and the secret.
const HEADER: usize = 8;
const LENGTH: usize = HEADER + size_of::<u64>() + FILLING.len();

/// What follows the secret.
const FILLING: &[u8] = b"lbpersist health check";

/// Asks for echoes.
#[derive(Default)]
pub(super) struct Pinger {
    // One for each family, opened when it is first needed.
    sockets: [Mutex<Option<Arc<Echoes>>>; 2],
}

impl Pinger {
    /// Sends one request and waits for its answer.
    pub(super) async fn check(&self, address: IpAddr) -> Result<(), Fault> {
        let echoes = self.echoes(address.into()).map_err(|error| {
            Fault::Own(format!("cannot open an ICMP socket: {error}; it takes CAP_NET_RAW"))
        })?;
        let (heard, answer) = oneshot::channel();
        let question = echoes
            .ask(address, heard)
            .ok_or_else(|| Fault::Own("too many echoes are awaited".to_owned()))?;
        let sent = echoes.socket.send_to(&question.packet, SocketAddr::new(address, 0)).await;
        sent.map_err(|error| socket_fault(&error, "cannot send an echo request to", address))?;
        let lost = |_| Fault::Own("the ICMP socket was closed".to_owned());
        answer.await.map_err(lost)
    }

    fn echoes(&self, family: Family) -> io::Result<Arc<Echoes>> {
        let mut slot = lock(&self.sockets[family as usize]);
        if let Some(echoes) = slot.as_ref().filter(|echoes| !echoes.is_closed()) {
            return Ok(Arc::clone(echoes));
        }
        let echoes = Arc::new(Echoes::open(family)?);
        tokio::spawn(Arc::clone(&echoes).listen());
        *slot = Some(Arc::clone(&echoes));
        Ok(echoes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A socket and who waits at it.
struct Echoes {
    family: Family,
    socket: UdpSocket,
    /// What a raw socket's requests carry; the kernel has one of its own for a ping socket.
    identifier: Option<u16>,
    secrets: RandomState,
    // `None` when the socket has failed.
    waiting: Mutex<Option<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    next: u16,
    asked: HashMap<u16, Asked>,
}

struct Asked {
    address: IpAddr,
    secret: u64,
    heard: oneshot::Sender<()>,
}

/// A request; when it is dropped nobody waits for its answer any more.
struct Question<'e> {
    echoes: &'e Echoes,
    sequence: u16,
    packet: [u8; LENGTH],
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.echoes.waiting).as_mut() {
            waiting.asked.remove(&self.sequence);
        }
    }
}

impl Echoes {
    fn open(family: Family) -> io::Result<Self> {
        let (domain, protocol, any) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        let secrets = RandomState::new();
        let (socket, identifier) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => {
                // A ping socket hears answers once it has its identifier, which binding gives it.
                socket.bind(&SocketAddr::new(any, 0).into())?;
                (socket, None)
            }
            Err(_) => {
                let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
                match family {
                    Family::V4 => sys::only_echo_replies(&socket)?,
                    Family::V6 => sys::only_echo_replies_v6(&socket)?,
                }
                (socket, Some((secrets.hash_one("identifier") & 0xffff) as u16))
            }
        };
        socket.set_nonblocking(true)?;
        // Sending to an address and receiving with the sender's is the same for all of these sockets.
        let socket = UdpSocket::from_std(StdUdpSocket::from(OwnedFd::from(socket)))?;
        let waiting = Mutex::new(Some(Waiting::default()));
        Ok(Self { family, socket, identifier, secrets, waiting })
    }

    fn is_closed(&self) -> bool {
        lock(&self.waiting).is_none()
    }

    /// Prepares a request, if there is a number left for it.
    fn ask(&self, address: IpAddr, heard: oneshot::Sender<()>) -> Option<Question<'_>> {
        let mut waiting = lock(&self.waiting);
        let waiting = waiting.as_mut()?;
        let free = (0..=u16::MAX).map(|n| waiting.next.wrapping_add(n));
        let sequence = free.into_iter().find(|n| !waiting.asked.contains_key(n))?;
        waiting.next = sequence.wrapping_add(1);
        // A number comes round again, its secret should not: what it is made of is new every time.
        let secret = self.secrets.hash_one((address, sequence, std::time::Instant::now()));
        waiting.asked.insert(sequence, Asked { address, secret, heard });
        let packet = request(self.family, self.identifier.unwrap_or(0), sequence, secret);
        Some(Question { echoes: self, sequence, packet })
    }

    /// Hands answers to those who wait for them, until the socket fails.
    async fn listen(self: Arc<Self>) {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer).await {
            if let Some(answer) = self.decode(&buffer[..length]) {
                self.hear(from.ip(), answer);
            }
        }
        *lock(&self.waiting) = None;
    }

    fn decode(&self, packet: &[u8]) -> Option<Answer> {
        // A raw IPv4 socket gives the IP header too.
        let has_ip_header = self.family == Family::V4 && self.identifier.is_some();
        let echo = if has_ip_header { without_ip_header(packet)? } else { packet };
        let answer = Answer::decode(self.family, echo)?;
        self.identifier.is_none_or(|own| own == answer.identifier).then_some(answer)
    }

    fn hear(&self, from: IpAddr, answer: Answer) {
        let mut waiting = lock(&self.waiting);
        let Some(waiting) = waiting.as_mut() else { return };
        let Some(asked) = waiting.asked.get(&answer.sequence) else { return };
        if asked.address == from
            && asked.secret == answer.secret
            && let Some(asked) = waiting.asked.remove(&answer.sequence)
        {
            // Whoever asked may have given up.
            let _ = asked.heard.send(());
        }
    }
}

/// What an echo reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    identifier: u16,
    sequence: u16,
    secret: u64,
}

impl Answer {
    fn decode(family: Family, echo: &[u8]) -> Option<Self> {
        let (header, body) = echo.split_first_chunk::<HEADER>()?;
        let (secret, filling) = body.split_first_chunk()?;
        let reply = match family {
            Family::V4 => 0,
            Family::V6 => 129,
        };
        let [kind, code, _, _, i0, i1, s0, s1] = *header;
        ((kind, code) == (reply, 0) && filling == FILLING).then(|| Self {
            identifier: u16::from_be_bytes([i0, i1]),
            sequence: u16::from_be_bytes([s0, s1]),
            secret: u64::from_be_bytes(*secret),
        })
    }
}

fn request(family: Family, identifier: u16, sequence: u16, secret: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..HEADER + 8].copy_from_slice(&secret.to_be_bytes());
    packet[HEADER + 8..].copy_from_slice(FILLING);
    if family == Family::V4 {
        // The kernel writes that of ICMPv6, which covers addresses it has yet to choose.
        let checksum = checksum(&packet);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// The checksum of RFC 1071 over an even number of bytes.
fn checksum(bytes: &[u8; LENGTH]) -> u16 {
    const { assert!(LENGTH.is_multiple_of(2)) }
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or(0)
}

fn without_ip_header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(length..)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer that a host gives to a request.
    fn reply(family: Family, request: &[u8; LENGTH]) -> [u8; LENGTH] {
        let mut reply = *request;
        reply[0] = if family == Family::V4 { 0 } else { 129 };
        reply
    }

    #[test]
    fn answers_are_what_was_asked() {
        for family in [Family::V4, Family::V6] {
            let reply = reply(family, &request(family, 0x1234, 0xfffe, 0x0102_0304_0506_0708));
            let expected =
                Answer { identifier: 0x1234, sequence: 0xfffe, secret: 0x0102_0304_0506_0708 };
            assert_eq!(Answer::decode(family, &reply), Some(expected));
        }
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let request = request(Family::V4, 1, 2, 3);
        let good = reply(Family::V4, &request);
        assert_eq!(Answer::decode(Family::V4, &request), None, "a request");
        assert_eq!(Answer::decode(Family::V6, &good), None, "of the other family");
        for length in 0..LENGTH {
            assert_eq!(Answer::decode(Family::V4, &good[..length]), None, "{length} bytes");
        }
        for place in [0, 1, HEADER + 8, LENGTH - 1] {
            let mut wrong = good;
            wrong[place] ^= 0x40;
            assert_eq!(Answer::decode(Family::V4, &wrong), None, "byte {place}");
        }
        assert_eq!(without_ip_header(&[]), None);
        assert_eq!(without_ip_header(&[0x4f, 0, 0]), None);
    }

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        let packet = request(Family::V4, 0xabcd, 7, u64::MAX);
        assert_eq!(checksum(&packet), 0);
    }
}
