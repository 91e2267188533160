//! Whether a TLS handshake is finished, and the TLS under HTTPS. TLS 1.2 and 1.3.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Fault, Stage, socket_fault, tcp};
use crate::model::{Certificate, TlsCheck};

/// What is needed for a handshake with one server.
#[derive(Clone)]
pub(in crate::health) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// What is to be spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Speaks {
    /// Nothing is said about it.
    Any,
    /// HTTP/1.1, by ALPN.
    Http,
}

/// Configurations by what they depend on, so that thousands of targets share a few, and authorities are read once.
#[derive(Default)]
pub(in crate::health) struct Clients {
    known: HashMap<(Certificate, Speaks), Result<Arc<ClientConfig>, String>>,
}

impl Clients {
    /// What a check of the server at `address` needs. The error says what is missing on this machine.
    pub(super) fn client(
        &mut self,
        check: &TlsCheck,
        address: IpAddr,
        speaks: Speaks,
    ) -> Result<Client, String> {
        let known = self.known.entry((check.certificate.clone(), speaks));
        let config = known.or_insert_with(|| configure(&check.certificate, speaks)).clone()?;
        let name = match &check.server_name {
            None => ServerName::from(address),
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| format!("{name} is no name that TLS can ask for"))?,
        };
        Ok(Client { config, name })
    }
}

/// Connects and finishes a handshake.
pub(super) async fn check(
    address: SocketAddr,
    client: &Client,
    stage: &Stage,
) -> Result<(), Fault> {
    let stream = tcp::open(address).await?;
    handshake(stream, address, client, stage).await.map(drop)
}

/// Speaks TLS on a connection.
pub(super) async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    client: &Client,
    stage: &Stage,
) -> Result<TlsStream<TcpStream>, Fault> {
    stage.set("end of the TLS handshake");
    let connector = TlsConnector::from(Arc::clone(&client.config));
    let connected = connector.connect(client.name.clone(), stream).await;
    connected.map_err(|error| socket_fault(&error, "no TLS with", address))
}

fn configure(certificate: &Certificate, speaks: Speaks) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match certificate {
        Certificate::Any => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
        Certificate::Trusted => builder.with_root_certificates(authorities_of_this_machine()?),
        Certificate::SignedBy(path) => builder.with_root_certificates(authorities_of(path)?),
    };
    let mut config = builder.with_no_client_auth();
    // A ticket of an earlier check would spare the server the work that is to be seen.
    config.resumption = Resumption::disabled();
    if speaks == Speaks::Http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(Arc::new(config))
}

fn authorities_of_this_machine() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // One of them that cannot be read is no reason to trust none.
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(
            "this machine has no certificates of authorities; install them, or name a `ca_file`"
                .to_owned(),
        );
    }
    Ok(store)
}

fn authorities_of(path: &Path) -> Result<RootCertStore, String> {
    let because = |why: String| format!("cannot take authorities from {}: {why}", path.display());
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| because(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| because(error.to_string()))?;
        store.add(certificate).map_err(|error| because(error.to_string()))?;
    }
    if store.is_empty() { Err(because("it has no certificate".to_owned())) } else { Ok(store) }
}

/// Takes any certificate, but the server must own its key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
