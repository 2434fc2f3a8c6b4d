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
    ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, METADATA_USER, PgWireConnectionState, PidSecretKeyGenerator,
    RandomPidSecretKeyGenerator,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::startup::Authentication;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::state::State;
use super::{Identity, Login, Scram};
use crate::session::Session;

/// Numbers of connections.
static PROCESSES: std::sync::LazyLock<RandomPidSecretKeyGenerator> = std::sync::LazyLock::new(RandomPidSecretKeyGenerator::default);

pub struct Door {
    pub login: Arc<dyn Login>,
    pub manager: Arc<ConnectionManager>,
    pub database: String,
    /// Room for clients.
    pub places: Arc<Semaphore>,
    pub proof: Mutex<Proof>,
}

/// How far a login by SCRAM has come.
#[derive(Default)]
pub enum Proof {
    #[default]
    None,
    Asked(Box<dyn Scram>),
    Begun(Box<dyn Scram>),
}

const SCRAM: &str = "SCRAM-SHA-256";

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
                if self.login.is_open() {
                    return self.let_in(client, None).await;
                }
                if !client.is_secure() && !client.socket_addr().ip().is_loopback() {
                    let hint = "give the server a certificate and connect with sslmode=require";
                    return Err(fatal("28000", "a key is not taken over a connection that is not encrypted".into(), Some(hint)));
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let user = client.metadata().get(METADATA_USER).map(String::as_str).unwrap_or_default();
                let asked = match self.login.scram(user) {
                    Some(scram) => {
                        *self.proof.lock().await = Proof::Asked(scram);
                        Authentication::SASL(vec![SCRAM.into()])
                    }
                    None => Authentication::CleartextPassword,
                };
                client.send(PgWireBackendMessage::Authentication(asked)).await?;
            }
            PgWireFrontendMessage::PasswordMessageFamily(password) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let proof = std::mem::take(&mut *self.proof.lock().await);
                let who = match proof {
                    Proof::None => self.login.admit(&password.into_password()?.password),
                    Proof::Asked(mut scram) => {
                        let first = password.into_sasl_initial_response()?;
                        let message = first.data.as_deref().map(text).unwrap_or_default();
                        match scram.first(&message).filter(|_| first.auth_method == SCRAM) {
                            Some(answer) => {
                                *self.proof.lock().await = Proof::Begun(scram);
                                let answer = Authentication::SASLContinue(answer.into());
                                client.send(PgWireBackendMessage::Authentication(answer)).await?;
                                return Ok(());
                            }
                            None => None,
                        }
                    }
                    Proof::Begun(mut scram) => match scram.last(&text(&password.into_sasl_response()?.data)) {
                        Some((answer, who)) => {
                            client.feed(PgWireBackendMessage::Authentication(Authentication::SASLFinal(answer.into()))).await?;
                            Some(who)
                        }
                        None => None,
                    },
                };
                let Some(who) = who else {
                    let user = client.metadata().get(METADATA_USER).cloned().unwrap_or_default();
                    let hint = "the password is a key that may ask in SQL: `kilter key create NAME --role read`, or --sql with what it is to see; for a user who is called like a key, it is that key";
                    return Err(fatal("28P01", format!("password authentication failed for user \"{user}\""), Some(hint)));
                };
                return self.let_in(client, Some(who)).await;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Door {
    async fn let_in<C>(&self, client: &mut C, who: Option<Identity>) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(fatal("53300", "sorry, too many clients already".into(), None));
        };
        let (process, secret) = PROCESSES.generate(client);
        client.set_pid_and_secret_key(process, secret.clone());
        let (handle, guard) = self.manager.register(process, secret);
        let user = match &who {
            Some(who) => who.name.clone(),
            None => client.metadata().get(METADATA_USER).cloned().unwrap_or_else(|| "kilter".into()),
        };
        let Some(rights) = self.login.rights(who.as_ref()) else {
            return Err(fatal("28000", "the key opens nothing any more".into(), None));
        };
        let mut session = Session::new(user, &self.database, rights);
        session.process = process;
        for (name, value) in settings(client.metadata()) {
            session.set(&name, &value)?;
        }
        client.session_extensions().insert::<OwnedSemaphorePermit>(place);
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        client.session_extensions().insert(Mutex::new(State::new(session.clone(), who)));
        finish_authentication(client, &Parameters(session)).await
    }
}

/// What a client sets as it comes in: `application_name` and the like, and what `options` says as `-c name=value`.
fn settings(told: &HashMap<String, String>) -> Vec<(String, String)> {
    let is_setting = |name: &str| !["user", "database", "options", "replication"].contains(&name) && !name.starts_with("_pq_.");
    let mut found: Vec<(String, String)> =
        told.iter().filter(|(name, _)| is_setting(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut words = told.get("options").map(String::as_str).unwrap_or_default().split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word {
            "-c" => words.next(),
            word => word.strip_prefix("-c").or_else(|| word.strip_prefix("--")),
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_connection_are_settings() {
        let told =
            [("user", "ada"), ("application_name", "psql"), ("options", "-c statement_timeout=5s --extra-float-digits=2 -cgeqo=off")];
        let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let found = settings(&told);
        let has = |name: &str, value: &str| found.contains(&(name.into(), value.into()));
        assert!(has("application_name", "psql") && has("statement_timeout", "5s") && has("extra_float_digits", "2") && has("geqo", "off"));
        assert_eq!(found.len(), 4);
    }
}
