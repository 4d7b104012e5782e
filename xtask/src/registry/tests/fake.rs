//! A registry that answers as a test says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// A running HTTP server on a free port of a loopback address. It stops when it is dropped.
pub(super) struct FakeRegistry {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<FakeRequest>>>,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A request that the server received.
#[derive(Clone, Debug)]
pub(super) struct FakeRequest {
    /// The number of requests before it.
    pub(super) number: usize,
    pub(super) method: String,
    /// The path with the query.
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) body: String,
}

/// A response of the server.
#[derive(Clone)]
pub(super) struct FakeResponse {
    status: u16,
    headers: String,
    body: String,
}

impl FakeRegistry {
    /// Starts a server. `respond` gets each request, and the server's host with its port.
    pub(super) fn start(
        respond: impl Fn(&FakeRequest, &str) -> FakeResponse + Send + 'static,
    ) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stops = Arc::new(AtomicBool::new(false));
        let (received, stop) = (requests.clone(), stops.clone());
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let connection = connection.unwrap();
                // A client that speaks TLS sends no request.
                let Some(mut request) = read_request(&connection) else {
                    FakeResponse::new(400).send(&connection);
                    continue;
                };
                let mut received = received.lock().unwrap();
                request.number = received.len();
                let response = respond(&request, &address.to_string());
                received.push(request);
                response.send(&connection);
            }
        });
        FakeRegistry {
            address,
            requests,
            stops,
            thread: Some(thread),
        }
    }

    /// The host, with its port.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<FakeRequest> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        // The connection wakes the thread. The thread may have panicked, which fails the test.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl FakeResponse {
    pub(super) fn new(status: u16) -> FakeResponse {
        FakeResponse {
            status,
            headers: String::new(),
            body: String::new(),
        }
    }

    pub(super) fn with_header(mut self, name: &str, value: &str) -> FakeResponse {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    pub(super) fn with_body(mut self, body: &str) -> FakeResponse {
        body.clone_into(&mut self.body);
        self
    }

    fn send(&self, mut connection: &TcpStream) {
        let FakeResponse {
            status,
            headers,
            body,
        } = self;
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} Reason\r\n{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        // The client may have gone, which fails the test elsewhere.
        connection.write_all(text.as_bytes()).ok();
    }
}

/// Reads a request. `None` if the client sends something else, or nothing.
fn read_request(connection: &TcpStream) -> Option<FakeRequest> {
    let mut reader = BufReader::new(connection);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut authorization = None;
    let mut length = 0;
    while let Some((name, value)) = line()?.split_once(": ") {
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(FakeRequest {
        number: 0,
        method,
        path,
        authorization,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
