//! One connection: its messages, one by one, within bounds.
//!
//! Everything up to the login is somebody unknown's: it has one limit of time, short messages, and an end at the first thing that is wrong.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::BytesMut;
use futures::SinkExt;
use pgwire::api::{ClientInfo, NoopHandler, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::TlsAcceptor;
use pgwire::tokio::server::{negotiate_tls, process_error, process_message};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::handlers::Handlers;
use super::state::{Stmt, is_in};
use crate::listen::{self, LOGIN};

/// Bytes of a message before anybody has logged in, and after.
const FIRST_BYTES: usize = 10_000;
const BYTES: usize = 8 << 20;
/// What a connection keeps of a buffer that it no longer needs.
const KEPT: usize = 64 << 10;

/// Serves a client until it goes or does something that ends the connection.
pub async fn attend(socket: TcpStream, tls: Option<TlsAcceptor>, handlers: &Handlers, waits: Arc<()>) -> io::Result<()> {
    let until = Instant::now() + LOGIN;
    listen::prepare(&socket)?;
    let Ok(negotiated) = timeout_at(until, negotiate_tls::<Stmt>(socket, tls)).await else { return Ok(()) };
    let Some(mut socket) = negotiated? else { return Ok(()) };
    let mut read = std::mem::take(socket.read_buffer_mut());
    if socket.is_secure() && !read.is_empty() {
        // Somebody in between put words in front of the client's own.
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there was something in front of the encryption"));
    }
    let (mut waits, mut context) = (Some(waits), DecodeContext::default());
    context.awaiting_frontend_ssl = false;
    loop {
        let is_in = is_in(&socket);
        context.protocol_version = socket.protocol_version();
        context.awaiting_frontend_startup = matches!(socket.state(), PgWireConnectionState::AwaitingStartup);
        let message = message(socket.get_mut(), &mut read, &context, is_in);
        let next = match is_in {
            true => message.await,
            false => match timeout_at(until, message).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            },
        };
        let done = match next {
            Ok(None | Some(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Ok(Some(message)) => {
                let (is_cancel, is_extended) = (matches!(message, PgWireFrontendMessage::CancelRequest(_)), message.is_extended_query());
                let done = process_message(
                    message,
                    &mut socket,
                    Arc::clone(&handlers.door),
                    Arc::clone(&handlers.asks),
                    Arc::clone(&handlers.asks),
                    Arc::new(NoopHandler),
                    Arc::clone(&handlers.cancel),
                );
                let done = match is_in {
                    true => done.await,
                    false => match timeout_at(until, done).await {
                        Ok(done) => done,
                        Err(_) => return Ok(()),
                    },
                };
                if is_cancel {
                    return Ok(());
                }
                done.map_err(|e| (e, is_extended))
            }
            Err(e) => Err((e, false)),
        };
        let Err((e, is_extended)) = done else {
            if self::is_in(&socket) {
                waits = None;
            }
            continue;
        };
        let mut info = ErrorInfo::from(e);
        if info.is_fatal() || waits.is_some() {
            info.severity = "FATAL".into();
            // The client may be gone already.
            let _ = socket.send(PgWireBackendMessage::ErrorResponse(info.into())).await;
            return socket.close().await;
        }
        process_error(&mut socket, PgWireError::UserError(Box::new(info)), is_extended).await?;
    }
}

/// The next message; none: the client has gone.
async fn message(
    socket: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
    context: &DecodeContext,
    is_in: bool,
) -> Result<Option<PgWireFrontendMessage>, PgWireError> {
    // The very first message says how long it is, all others say first what they are.
    let head = usize::from(!context.awaiting_frontend_startup);
    let most = if is_in { BYTES } else { FIRST_BYTES };
    loop {
        if let Some(length) = read.get(head..head + 4) {
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            if !(4..=most).contains(&length) {
                return Err(violation(format!("a message has 4 to {most} bytes here, and this has {length}")));
            }
            if !is_in && head == 1 && !matches!(read[0], b'p' | b'X') {
                return Err(violation("nobody has logged in".into()));
            }
            if read.len() >= head + length {
                let mut frame = read.split_to(head + length);
                if read.is_empty() && length > KEPT {
                    *read = BytesMut::new();
                }
                // What is malformed may be read past its end.
                let decoded = catch_unwind(AssertUnwindSafe(|| PgWireFrontendMessage::decode(&mut frame, context)));
                return match decoded {
                    Ok(Ok(Some(message))) => Ok(Some(message)),
                    Ok(Err(e)) => Err(e),
                    Ok(Ok(None)) | Err(_) => Err(violation("a message makes no sense".into())),
                };
            }
        }
        read.reserve(8 << 10);
        if socket.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

fn violation(message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".into(), "08P01".into(), message)))
}
