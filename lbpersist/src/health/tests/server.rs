//! Servers for the tests: they read a request and write what they are told, which need not be true.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// What a server does with a connection.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Reads a request and writes these pieces, each after a pause; then closes.
    Say(Vec<(Duration, Vec<u8>)>),
    /// Reads a request, writes this, and stays silent.
    SayAndHold(Vec<u8>),
    /// Writes this again and again for as long as it is read.
    Repeat(Vec<u8>, Vec<u8>),
    /// Gives the request back as the body of an answer.
    Echo,
}

impl Act {
    /// Says it all at once.
    pub(super) fn say(text: &str) -> Self {
        Self::Say(vec![(Duration::ZERO, text.into())])
    }

    /// A whole answer.
    pub(super) fn answer(status: &str, body: &str) -> Self {
        let length = body.len();
        Self::say(&format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }
}

/// Starts a server on loopback, which ends with the test's runtime.
pub(super) async fn start(act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, act.clone()));
        }
    });
    address
}

/// The same over TLS.
pub(super) async fn start_tls(config: Arc<ServerConfig>, act: Act) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, act) = (acceptor.clone(), act.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, act).await;
                }
            });
        }
    });
    address
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, act: Act) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
    // Who asked may be gone at any time.
    let _ = match act {
        Act::Say(pieces) => {
            for (pause, piece) in pieces {
                tokio::time::sleep(pause).await;
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
            stream.shutdown().await
        }
        Act::SayAndHold(text) => {
            let _ = stream.write_all(&text).await;
            std::future::pending().await
        }
        Act::Repeat(head, piece) => {
            let mut result = stream.write_all(&head).await;
            while result.is_ok() {
                result = stream.write_all(&piece).await;
            }
            result
        }
        Act::Echo => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.len());
            let _ = stream.write_all(&[head.as_bytes(), &request].concat()).await;
            stream.shutdown().await
        }
    };
}

/// An authority of one's own.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server needs that shows a certificate for `name`, changed by `change` before it is signed.
    pub(super) fn server(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}
