//! TLS handshakes and HTTPS against servers with good and bad certificates, and servers that speak no TLS.

use super::{
    server::{Act, Authority, start, start_tls},
    *,
};
use crate::model::{Certificate, HttpCheck, StatusRanges, TlsCheck};

const NAME: &str = "www.example.com";

struct Trust {
    authority: Authority,
    file: tempfile::NamedTempFile,
}

impl Trust {
    fn new() -> Self {
        let authority = Authority::new("trusted");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        Self { authority, file }
    }

    /// A check whose certificate must be for `name`, signed by this authority.
    fn check(&self, name: Option<&str>) -> TlsCheck {
        TlsCheck {
            server_name: name.map(str::to_owned),
            certificate: Certificate::SignedBy(self.file.path().to_owned()),
        }
    }
}

fn any() -> MonitorKind {
    MonitorKind::Tls(TlsCheck::default())
}

fn https(tls: TlsCheck) -> MonitorKind {
    MonitorKind::Http(Box::new(HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        headers: Vec::new(),
        status: StatusRanges::default(),
        body: None,
        tls: Some(tls),
    }))
}

#[tokio::test]
async fn a_good_certificate_passes() {
    let trust = Trust::new();
    let address = start_tls(trust.authority.server(NAME, |_| ()), Act::answer("200 OK", "")).await;
    for check in [TlsCheck::default(), trust.check(Some(NAME))] {
        assert_eq!(ask(MonitorKind::Tls(check.clone()), address, PATIENCE).await, Ok(()));
        assert_eq!(ask(https(check), address, PATIENCE).await, Ok(()));
    }
    // Without a name the certificate must be for the address.
    let address = start_tls(trust.authority.server("127.0.0.1", |_| ()), Act::Echo).await;
    assert_eq!(ask(MonitorKind::Tls(trust.check(None)), address, PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn a_bad_certificate_fails_only_when_it_is_checked() {
    let trust = Trust::new();
    let stranger = Authority::new("stranger");
    let expired = trust.authority.server(NAME, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let premature = trust.authority.server(NAME, |params| {
        params.not_before = rcgen::date_time_ymd(2200, 1, 1);
        params.not_after = rcgen::date_time_ymd(2201, 1, 1);
    });
    for (config, words) in [
        (expired, "certificate expired"),
        (premature, "certificate not valid yet"),
        (trust.authority.server("other.example.com", |_| ()), "not valid for name"),
        (stranger.server(NAME, |_| ()), "UnknownIssuer"),
    ] {
        let address = start_tls(config, Act::answer("200 OK", "")).await;
        for kind in [MonitorKind::Tls(trust.check(Some(NAME))), https(trust.check(Some(NAME)))] {
            let complaint = complaint(kind, address, PATIENCE).await;
            assert!(complaint.starts_with(&format!("no TLS with {address}: ")), "{complaint}");
            assert!(complaint.contains(words), "{words}: {complaint}");
        }
        assert_eq!(ask(any(), address, PATIENCE).await, Ok(()), "{words}");
        assert_eq!(ask(https(TlsCheck::default()), address, PATIENCE).await, Ok(()), "{words}");
    }
}

#[tokio::test]
async fn a_server_without_tls_fails() {
    for (act, words) in [
        (Act::answer("400 Bad Request", ""), "within"),
        (Act::SayAndHold(Vec::new()), "end of the TLS handshake"),
    ] {
        // It waits for the end of a request that a handshake never has.
        let address = start(act).await;
        let complaint = complaint(any(), address, Duration::from_millis(200)).await;
        assert!(complaint.contains(words), "{complaint}");
    }
    // One that speaks first.
    let (listener, address) = listen("127.0.0.1:0").await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail ready\r\n").await;
        }
    });
    let complaint = complaint(any(), address, PATIENCE).await;
    assert!(complaint.starts_with(&format!("no TLS with {address}: ")), "{complaint}");
}

#[tokio::test]
async fn the_name_is_asked_for() {
    let trust = Trust::new();
    let config = trust.authority.server(NAME, |_| ());
    let (seen, mut names) = mpsc::channel(4);
    let (listener, address) = listen("127.0.0.1:0").await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = tokio_rustls::LazyConfigAcceptor::new(Default::default(), stream);
            let start = acceptor.await.unwrap();
            let hello = start.client_hello();
            let protocols = hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect::<Vec<_>>());
            seen.send((hello.server_name().map(str::to_owned), protocols)).await.unwrap();
            let _ = start.into_stream(config.clone()).await;
        }
    });
    assert_eq!(ask(MonitorKind::Tls(trust.check(Some(NAME))), address, PATIENCE).await, Ok(()));
    assert_eq!(names.recv().await, Some((Some(NAME.to_owned()), None)));
    assert_eq!(ask(any(), address, PATIENCE).await, Ok(()));
    assert_eq!(names.recv().await, Some((None, None)), "an address is no name");
    complaint(https(TlsCheck::default()), address, PATIENCE).await;
    assert_eq!(names.recv().await, Some((None, Some(vec![b"http/1.1".to_vec()]))));
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_not_the_servers_fault() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (path, words) in [
        ("/no/such/file.pem".into(), "cannot take authorities from /no/such/file.pem: "),
        (empty.path().to_owned(), "it has no certificate"),
    ] {
        let check = TlsCheck { server_name: None, certificate: Certificate::SignedBy(path) };
        let (_listener, address) = listen("127.0.0.1:0").await;
        match ask(MonitorKind::Tls(check), address, PATIENCE).await {
            Err(Fault::Own(error)) => assert!(error.contains(words), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
