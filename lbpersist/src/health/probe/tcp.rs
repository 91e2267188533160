//! Whether a TCP connection opens, and the connections that other questions go through.

use std::{
    io,
    net::{SocketAddr, TcpStream as StdTcpStream},
    os::{fd::AsFd, linux::net::TcpStreamExt},
};

use tokio::net::{TcpSocket, TcpStream};

use super::{Fault, socket_fault};

/// Connects, and lets go at once by a reset.
///
/// It is the politer way for the server too, because with the kernel told not to hurry with its acknowledgement
/// (TCP_QUICKACK off) the reset goes out in place of the handshake's third packet: the server's kernel has shown that it
/// takes connections, but its application is never woken, nor its accept queue filled, nor its log. HAProxy's TCP checks
/// do the same.
pub(super) async fn check(address: SocketAddr) -> Result<(), Fault> {
    let connect = async {
        let socket = socket(address)?;
        // The standard library has this option on a stream only, and the setting outlives the second descriptor.
        StdTcpStream::from(socket.as_fd().try_clone_to_owned()?).set_quickack(false)?;
        socket.connect(address).await
    };
    connect.await.map(drop).map_err(|error| cannot_connect(&error, address))
}

/// Connects to stay. The end is a reset all the same.
pub(super) async fn open(address: SocketAddr) -> Result<TcpStream, Fault> {
    let connect = async {
        let stream = socket(address)?.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    connect.await.map_err(|error| cannot_connect(&error, address))
}

/// A socket that is closed by a reset: none is left in TIME_WAIT here, whatever the number of checks.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    Ok(socket)
}

fn cannot_connect(error: &io::Error, address: SocketAddr) -> Fault {
    socket_fault(error, "cannot connect to", address)
}
