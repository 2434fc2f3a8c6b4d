//! Takes in clients of a protocol, within bounds: until they have logged in, they are somebody unknown.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

/// Sockets that have not logged in, at a time.
const WAITING: usize = 64;
/// How long logging in may take, with all that comes before it.
pub const LOGIN: Duration = Duration::from_secs(30);
/// A client from which nothing was heard for so long is asked whether it is there.
pub const SILENT: Duration = Duration::from_secs(60);
/// A client that answers nothing, or takes nothing of what it asked for, is gone after this.
pub const GONE: Duration = Duration::from_secs(300);

/// Serves each client by `attend`, on threads of `on`, until this is dropped, and with it all clients. `attend` keeps the `Arc` until its client has logged in.
pub async fn take_in<F>(listener: TcpListener, protocol: &'static str, on: &Handle, attend: impl Fn(TcpStream, Arc<()>) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut waiting: VecDeque<(Weak<()>, AbortHandle)> = VecDeque::new();
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = clients.join_next() => {
                if let Err(e) = ended {
                    tracing::debug!(error = %e, protocol, "a connection ended badly");
                }
                continue;
            }
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(e) => {
                tracing::warn!(error = %e, protocol, "a client could not be taken in");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        waiting.retain(|(waits, _)| waits.strong_count() > 0);
        // When too many knock at the door, who has knocked longest goes: descriptors are everybody's, and logging in takes no time.
        if waiting.len() >= WAITING
            && let Some((_, oldest)) = waiting.pop_front()
        {
            oldest.abort();
        }
        let waits = Arc::new(());
        let still_waits = Arc::downgrade(&waits);
        let attended = attend(socket, waits);
        let served = async move {
            if let Err(e) = attended.await {
                tracing::debug!(error = %e, protocol, "a client is gone");
            }
        };
        let task = clients.spawn_on(served, on);
        waiting.push_back((still_waits, task));
    }
}

/// Sends what is there at once, and notices a client that is gone.
///
/// # Errors
/// When the socket does not take its settings.
pub fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENT))?;
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_user_timeout(Some(GONE))?;
    Ok(())
}
