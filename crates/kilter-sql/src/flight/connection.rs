//! One connection: who calls, before anything of a call's body is read.
//!
//! Until a call has brought a key that opens, the connection is somebody unknown's: it has one limit of time, headers of 16 KiB, and an end at the first key that is
//! wrong.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pgwire::tokio::tokio_rustls::TlsAcceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

use super::calls::Calls;
use super::kept::Owner;
use crate::Engine;
use crate::door::{Identity, Login};
use crate::error::SqlError;
use crate::listen::{self, GONE, LOGIN, SILENT};
use crate::session::Session;

/// Calls at a time, of one connection.
const CALLS: u32 = 16;
/// Bytes of the headers of a call.
const HEADERS: u32 = 16 << 10;
/// Bytes of a message: a statement with what is around it; and of parameters, which come by a call of their own.
const BYTES: usize = 512 << 10;
const PARAMETERS: usize = 8 << 20;
/// The call that brings parameters.
const PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";
/// How long, and how many bytes of it, the rest of a call is waited for that is turned away.
const HEARD: Duration = Duration::from_secs(1);
const HEARD_BYTES: usize = 64 << 10;
/// Who asks where nobody says who it is.
const SOMEBODY: &str = "kilter";

/// What all connections share.
pub struct House {
    login: Arc<dyn Login>,
    database: String,
    places: Arc<Semaphore>,
    calls: FlightServiceServer<Calls>,
    puts: FlightServiceServer<Calls>,
}

impl House {
    pub fn new(engine: Arc<Engine>, login: Arc<dyn Login>, connections: usize) -> House {
        let database = engine.database().to_owned();
        let calls = Arc::new(Calls::new(engine));
        let serve = |bytes| FlightServiceServer::from_arc(Arc::clone(&calls)).max_decoding_message_size(bytes);
        House { login, database, places: Arc::new(Semaphore::new(connections)), calls: serve(BYTES), puts: serve(PARAMETERS) }
    }
}

/// What opens the door.
const KEY: &str =
    "the password, or the token, is a key that may ask in SQL: `kilter key create NAME --role read`, or --sql with what it is to see";

/// It was taken away meanwhile.
fn closed() -> Status {
    SqlError::new("28000", "the key opens nothing any more").hint(KEY).into()
}

/// Who calls.
#[derive(Clone)]
pub struct Caller {
    pub session: Session,
    pub owner: Owner,
    /// What opens the door again.
    pub token: String,
    /// Whom the door let in; none: it was open.
    who: Option<Identity>,
    login: Arc<dyn Login>,
}

impl Caller {
    /// The same with what it may see by now: what it says may have been long on its way.
    ///
    /// # Errors
    /// When it may not ask any more.
    pub fn now(mut self) -> Result<Caller, Status> {
        self.session.rights = self.login.rights(self.who.as_ref()).ok_or_else(closed)?;
        Ok(self)
    }
}

/// A client on its connection.
struct Guest {
    house: Arc<House>,
    /// Whether a key may come this way: encrypted, or from this machine.
    takes_keys: bool,
    standing: Mutex<Standing>,
    /// Whether a call was turned away: nothing more is answered.
    is_refused: AtomicBool,
    /// Told when a call was turned away.
    refused: Notify,
}

enum Standing {
    /// It has not logged in; what is held tells that it waits.
    Waits {
        _waits: Arc<()>,
    },
    In {
        _place: OwnedSemaphorePermit,
    },
}

/// Serves a client until it goes or is turned away.
pub async fn attend(socket: TcpStream, tls: Option<TlsAcceptor>, house: Arc<House>, waits: Arc<()>) -> io::Result<()> {
    let until = Instant::now() + LOGIN;
    listen::prepare(&socket)?;
    let takes_keys = tls.is_some() || socket.peer_addr()?.ip().is_loopback();
    let guest = Arc::new(Guest {
        house,
        takes_keys,
        standing: Mutex::new(Standing::Waits { _waits: waits }),
        is_refused: AtomicBool::new(false),
        refused: Notify::new(),
    });
    match tls {
        None => serve(socket, guest, until).await,
        Some(tls) => match timeout_at(until, tls.accept(socket)).await {
            Ok(socket) => serve(socket?, guest, until).await,
            Err(_) => Ok(()),
        },
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, guest: Arc<Guest>, until: Instant) -> io::Result<()> {
    let who = Arc::clone(&guest);
    let calls = service_fn(move |request| {
        let guest = Arc::clone(&who);
        async move { Ok::<_, Infallible>(guest.answer(request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(SILENT).keep_alive_timeout(GONE);
    builder.max_concurrent_streams(CALLS).max_header_list_size(HEADERS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), calls));
    let (mut had_time, mut leaves) = (false, None);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.map_err(io::Error::other),
            () = sleep_until(until), if !had_time => {
                if !guest.is_in() {
                    return Ok(());
                }
                had_time = true;
            }
            // What it asked before with a key that opened is answered.
            () = guest.refused.notified(), if leaves.is_none() => {
                connection.as_mut().graceful_shutdown();
                leaves = Some(Instant::now() + GONE);
            }
            () = sleep_until(leaves.unwrap_or(until)), if leaves.is_some() => return Ok(()),
        }
    }
}

impl Guest {
    fn is_in(&self) -> bool {
        matches!(*self.standing.lock().unwrap_or_else(PoisonError::into_inner), Standing::In { .. })
    }

    async fn answer(&self, mut request: http::Request<Incoming>) -> http::Response<Body> {
        let admitted = match self.is_refused.load(Ordering::Acquire) {
            true => Err(Status::unavailable("this connection ends: connect anew")),
            false => self.admit(request.headers()),
        };
        match admitted {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                let calls = if request.uri().path() == PUT { &self.house.puts } else { &self.house.calls };
                match calls.clone().call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
            Err(status) => {
                // A client that is answered while it sends may take the end of its call for a fault.
                let _ = timeout(HEARD, heard(request.into_body())).await;
                self.is_refused.store(true, Ordering::Release);
                self.refused.notify_one();
                status.into_http()
            }
        }
    }

    /// Whom a call is from. Asked of each, so that a key that is taken away opens nothing from then on.
    fn admit(&self, headers: &http::HeaderMap) -> Result<Caller, Status> {
        let shown = headers.get(http::header::AUTHORIZATION).and_then(|header| header.to_str().ok()).and_then(shown);
        let (user, password) = shown.unwrap_or_default();
        let name = |name: String| if name.is_empty() { SOMEBODY.to_owned() } else { name };
        let login = &self.house.login;
        let (user, who, token) = match login.is_open() {
            true => (name(user), None, "open".into()),
            false => {
                let refused = |message: String, hint: &str| Status::from(SqlError::new("28000", message).hint(hint));
                if !self.takes_keys {
                    let hint = "give the server a certificate and connect with grpc+tls";
                    return Err(refused("a key is not taken over a connection that is not encrypted".into(), hint));
                }
                if password.is_empty() {
                    return Err(refused("there is no key".into(), KEY));
                }
                let Some(who) = login.admit(&password) else {
                    return Err(SqlError::new("28P01", format!("password authentication failed for user \"{}\"", name(user)))
                        .hint(KEY)
                        .into());
                };
                (who.name.clone(), Some(who), password)
            }
        };
        let rights = login.rights(who.as_ref()).ok_or_else(closed)?;
        let session = Session::new(user, &self.house.database, rights);
        let caller = Caller { session, owner: who.as_ref().map(|who| who.hash), token, who, login: Arc::clone(login) };
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Standing::Waits { .. } = *standing {
            let Ok(place) = Arc::clone(&self.house.places).try_acquire_owned() else {
                let message = "sorry, too many clients already".into();
                return Err(Status::from(SqlError { code: "53300", message, hint: None, position: None }));
            };
            *standing = Standing::In { _place: place };
        }
        Ok(caller)
    }
}

/// Reads what a call still says, which nobody looks at.
async fn heard(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        bytes += frame.data_ref().map_or(0, |data| data.len());
        if bytes > HEARD_BYTES {
            return;
        }
    }
}

/// User and password of a header; a token is a password of no user.
fn shown(header: &str) -> Option<(String, String)> {
    let (scheme, value) = header.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some((String::new(), value.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    // Go's client leaves the padding away.
    let text = String::from_utf8(BASE64_STANDARD_NO_PAD.decode(value.trim_end_matches('=')).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// Whom a call is from that has come, and what that may see by now.
///
/// # Errors
/// When it may not ask any more; when the call did not come by a connection.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::new(Code::Internal, "nobody knows who calls"))?.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_as_password_or_as_token() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(shown("Bearer kilter_1"), pair("", "kilter_1"));
        for padding in ["", "="] {
            assert_eq!(shown(&format!("basic YWRhOmtpbHRlcl8xOjI{padding}")), pair("ada", "kilter_1:2"));
        }
        for wrong in ["", "Bearer", "Basic !", "Basic YWRh", "Negotiate YWRhOmtpbHRlcl8x"] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
