//! The first words with a client: which protocol, and who asks.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures::sink::{Sink, SinkExt};
use pgwire::api::auth::{
    ServerParameterProvider, StartupHandler, finish_authentication, protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, METADATA_APPLICATION_NAME, METADATA_USER, PgWireConnectionState,
    PidSecretKeyGenerator, RandomPidSecretKeyGenerator,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::startup::Authentication;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::Mutex;

use super::Login;
use super::handlers::State;
use crate::session::Session;

/// Numbers of connections.
static PROCESSES: std::sync::LazyLock<RandomPidSecretKeyGenerator> = std::sync::LazyLock::new(RandomPidSecretKeyGenerator::default);

pub struct Door {
    pub login: Arc<dyn Login>,
    pub manager: Arc<ConnectionManager>,
    pub database: String,
    /// Whether there is room for one more.
    pub has_room: bool,
}

fn fatal(code: &str, message: String, hint: Option<&str>) -> PgWireError {
    let mut info = ErrorInfo::new("FATAL".into(), code.into(), message);
    info.hint = hint.map(str::to_owned);
    PgWireError::UserError(Box::new(info))
}

#[async_trait]
impl StartupHandler for Door {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match message {
            PgWireFrontendMessage::Startup(ref startup) => {
                protocol_negotiation(client, startup).await?;
                save_startup_parameters_to_metadata(client, startup);
                if !self.has_room {
                    return Err(fatal("53300", "sorry, too many clients already".into(), None));
                }
                let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_else(|| "kilter".into());
                if self.login.is_open() {
                    return self.let_in(client, user).await;
                }
                if !client.is_secure() && !client.socket_addr().ip().is_loopback() {
                    let hint = "give the server a certificate and connect with sslmode=require";
                    return Err(fatal("28000", "a key is not taken over a connection that is not encrypted".into(), Some(hint)));
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                client.send(PgWireBackendMessage::Authentication(Authentication::CleartextPassword)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                let password = password.into_password()?;
                match self.login.admit(&password.password) {
                    Some(name) => return self.let_in(client, name).await,
                    None => {
                        let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
                        let hint = "the password is a key that may read: `kilter key create NAME --role read`";
                        return Err(fatal("28P01", format!("password authentication failed for user \"{user}\""), Some(hint)));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Door {
    async fn let_in<C>(&self, client: &mut C, user: String) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (process, secret) = PROCESSES.generate(client);
        client.set_pid_and_secret_key(process, secret.clone());
        let (handle, guard) = self.manager.register(process, secret);
        let mut session = Session::new(user, &self.database);
        session.process = process;
        if let Some(name) = client.metadata().get(METADATA_APPLICATION_NAME) {
            session.set("application_name", name);
        }
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        client.session_extensions().insert(Mutex::new(State::new(session.clone())));
        finish_authentication(client, &Parameters(session)).await
    }
}

/// What a client is told of the server at once.
struct Parameters(Session);

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, _: &C) -> Option<HashMap<String, String>> {
        let told = [
            ("server_version", "server_version"),
            ("server_encoding", "server_encoding"),
            ("client_encoding", "client_encoding"),
            ("DateStyle", "datestyle"),
            ("IntervalStyle", "intervalstyle"),
            ("TimeZone", "timezone"),
            ("integer_datetimes", "integer_datetimes"),
            ("standard_conforming_strings", "standard_conforming_strings"),
            ("application_name", "application_name"),
            ("is_superuser", "is_superuser"),
            ("session_authorization", "session_authorization"),
            ("default_transaction_read_only", "default_transaction_read_only"),
            ("in_hot_standby", "in_hot_standby"),
        ];
        Some(told.into_iter().filter_map(|(name, setting)| Some((name.to_owned(), self.0.setting(setting)?))).collect())
    }
}
