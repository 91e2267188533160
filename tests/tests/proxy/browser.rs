//! A browser: Chromium without a screen, driven through chromedriver (W3C WebDriver, over HTTP).

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lbpersist_tests::{namespace::Namespace, wait};
use serde_json::{Value, json};

use crate::{
    programs::{has_or_skip, rig},
    setup::{Rig, head_of},
};

/// Where chromedriver listens, in the client's own namespace.
const PORT: u16 = 9515;
/// How long a browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// chromedriver, ended when dropped.
struct Driver {
    child: Child,
    namespace: Namespace,
}

impl Driver {
    fn start(namespace: &Namespace) -> Self {
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={PORT}")).stdin(Stdio::null());
        driver.stdout(Stdio::null()).stderr(Stdio::null());
        let child = namespace.run(|| driver.spawn()).expect("chromedriver starts");
        let driver = Self { child, namespace: namespace.clone() };
        wait::until_true("chromedriver listens", || driver.connect().is_ok());
        driver
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        self.namespace.run(|| TcpStream::connect(("127.0.0.1", PORT)))
    }

    /// Gives a command, and the value that it answers with.
    fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = self.connect().expect("chromedriver listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("the rig works");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("the rig works");
        // It leaves the connection open, whatever it is told.
        let head = head_of(&mut stream).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|text| text.trim().parse().ok()).expect("a length");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("chromedriver answers");
        let text = String::from_utf8_lossy(&body);
        assert!(head.starts_with("http/1.1 200"), "{method} {path}: {head}{text}");
        let body: Value = serde_json::from_str(&text).expect("an answer of JSON");
        body["value"].clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It ends its browsers with it.
        if let Ok(mut stream) = self.connect() {
            let _ = stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A browser, from its start to its end.
struct Browser<'d> {
    driver: &'d Driver,
    session: String,
}

impl<'d> Browser<'d> {
    fn start(driver: &'d Driver, data: &Path) -> Self {
        let arguments = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            format!("--user-data-dir={}", data.display()),
        ]);
        let options = json!({ "args": arguments, "binary": "/usr/bin/chromium" });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        let wanted = json!({ "capabilities": { "alwaysMatch": wanted } });
        let answer = driver.tell("POST", "/session", &wanted);
        let session = answer["sessionId"].as_str().expect("a session").to_owned();
        Self { driver, session }
    }

    /// Opens a page: the server that has answered.
    fn open(&self, path: &str) -> String {
        let url = format!("http://{}{path}", Rig::service());
        self.driver.tell("POST", &format!("/session/{}/url", self.session), &json!({ "url": url }));
        let source =
            self.driver.tell("GET", &format!("/session/{}/source", self.session), &Value::Null);
        let source = source.as_str().expect("a page");
        let server = source.split("id=\"server\">").nth(1).and_then(|rest| rest.split('<').next());
        server.unwrap_or_else(|| panic!("not one of our pages: {source}")).to_owned()
    }

    /// The cookie that the balancer has set.
    fn cookie(&self) -> Value {
        self.driver.tell("GET", &format!("/session/{}/cookie/LB", self.session), &Value::Null)
    }

    fn close(self) {
        self.driver.tell("DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

#[test]
fn a_browser_keeps_its_server_until_it_is_closed() {
    if !has_or_skip(&["nginx", "chromium", "chromedriver"]) {
        return;
    }
    let (rig, _nginx) = rig(3, "algorithm = \"round-robin\"\npersistence_profile = \"c\"");
    let driver = Driver::start(&rig.topology.clients[0].namespace);
    let data = tempfile::tempdir().expect("the rig works");
    let browser = Browser::start(&driver, data.path());
    let server = browser.open("/");
    let cookie = browser.cookie();
    assert_eq!(cookie["httpOnly"], true, "{cookie}");
    assert_eq!(cookie["expiry"], Value::Null, "it is a session cookie: {cookie}");
    for page in ["/two", "/three?x=1", "/four", "/"] {
        assert_eq!(browser.open(page), server, "at {page}");
    }
    assert_eq!(browser.cookie()["value"], cookie["value"], "it was set once");
    browser.close();
    // The same user comes back with another window: the session cookie is gone, and somebody else's turn it is.
    let browser = Browser::start(&driver, data.path());
    let other = browser.open("/");
    assert_ne!(other, server, "balanced afresh");
    assert_ne!(browser.cookie()["value"], cookie["value"], "with a cookie of its own");
    assert_eq!(browser.open("/two"), other);
    browser.close();
}
