//! One attempt to deliver: the request, its signature, and what the answer means.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use kilter_tracking::{Delivery, Secret};
use sha2::Sha256;
use ureq::Agent;
use ureq::http::header::RETRY_AFTER;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use super::super::moment::Time;
use super::reach::{CheckedResolver, Refused, WebhookOptions};

/// Attempts before a delivery is given up: half an hour of them.
const ATTEMPTS: u32 = 12;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// The longest that a receiver may ask to be left alone for.
const LONGEST_ASKED: Duration = Duration::from_hours(1);
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER: u64 = 8 * 1024;

/// What a receiver said.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub body: String,
    retry_after: Option<Duration>,
}

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// To be tried again after so long.
    Later(Duration),
    GivenUp,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct NoAnswer {
    why: String,
    is_final: bool,
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// Calls only what it may, and goes only where it was sent.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Agent,
    options: WebhookOptions,
}

impl Sender {
    pub fn new(options: WebhookOptions) -> Sender {
        Sender { client: client(&options), options }
    }

    /// Makes an attempt on a thread of its own, which nobody waits for at the end of the program.
    pub async fn send(&self, delivery: &Delivery, limit: Duration) -> Result<Answered, NoAnswer> {
        self.options.host(&delivery.url).map_err(|e| NoAnswer { why: e.to_string(), is_final: true })?;
        let (client, delivery) = (self.client.clone(), delivery.clone());
        let (answer, answered) = tokio::sync::oneshot::channel();
        let attempt = move || drop(answer.send(post(&client, &delivery, limit)));
        let failed = |why: &dyn std::fmt::Display| NoAnswer { why: format!("the attempt could not be made: {why}"), is_final: false };
        std::thread::Builder::new().name("webhook".into()).spawn(attempt).map_err(|e| failed(&e))?;
        answered.await.map_err(|e| failed(&e))?
    }
}

fn client(options: &WebhookOptions) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // One of the environment would be connected to instead of the address that was looked at.
        .proxy(None)
        .max_idle_connections(0)
        .timeout_connect(Some(CONNECT))
        .user_agent(concat!("kilter/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(config, DefaultConnector::default(), CheckedResolver { options: options.clone(), names: DefaultResolver::default() })
}

fn post(client: &Agent, delivery: &Delivery, limit: Duration) -> Result<Answered, NoAnswer> {
    let body = body(delivery);
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).to_string();
    let mut request = client
        .post(&delivery.url)
        .config()
        .timeout_global(Some(limit))
        .build()
        .header("Content-Type", "application/json")
        .header("X-MLflow-Delivery-Id", &delivery.id)
        .header("X-MLflow-Timestamp", &timestamp);
    if let Some(signature) = signature(&delivery.secret, &delivery.id, &timestamp, &body) {
        request = request.header("X-MLflow-Signature", signature);
    }
    let mut response = request.send(&body).map_err(|error| {
        let is_refused = matches!(&error, ureq::Error::Other(e) if e.is::<Refused>());
        let is_final = is_refused || matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_));
        NoAnswer { why: error.to_string(), is_final }
    })?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| asked(v.to_str().ok()?, SystemTime::now()));
    let mut text = Vec::new();
    // The status has said it all: an answer that breaks off is no failure.
    let _ = response.body_mut().as_reader().take(ANSWER).read_to_end(&mut text);
    Ok(Answered { status: response.status().as_u16(), body: String::from_utf8_lossy(&text).into_owned(), retry_after })
}

fn body(delivery: &Delivery) -> String {
    let time = Time(delivery.created).to_string();
    format!(
        r#"{{"entity": "{}", "action": "{}", "timestamp": "{}+00:00", "data": {}}}"#,
        delivery.event.entity(),
        delivery.event.action(),
        time.trim_end_matches('Z'),
        delivery.payload
    )
}

/// As MLflow signs.
fn signature(secret: &Secret, id: &str, timestamp: &str, body: &str) -> Option<String> {
    if secret.reveal().is_empty() {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()).ok()?;
    for part in [id, ".", timestamp, ".", body] {
        mac.update(part.as_bytes());
    }
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// What is done after an attempt, when so many have failed before it.
pub fn outcome(answer: &Result<Answered, NoAnswer>, failed: u32) -> Outcome {
    let asked = match answer {
        Ok(Answered { status: 200..=299, .. }) => return Outcome::Delivered,
        Ok(Answered { status: 408 | 429 | 500..=599, retry_after, .. }) => *retry_after,
        Err(NoAnswer { is_final: false, .. }) => None,
        Ok(_) | Err(_) => return Outcome::GivenUp,
    };
    if failed + 1 >= ATTEMPTS {
        return Outcome::GivenUp;
    }
    Outcome::Later(asked.map_or_else(|| backoff(failed), |asked| asked.clamp(FIRST_WAIT, LONGEST_ASKED)))
}

/// Twice as long each time, and up to a half longer, so that those that failed together do not come back together.
fn backoff(failed: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << failed.min(16)).min(LONGEST_WAIT);
    wait + wait.mul_f64(RandomState::new().hash_one(failed) as f64 / u64::MAX as f64 / 2.)
}

/// The time that `Retry-After` says: seconds, or a date.
fn asked(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Result<Answered, NoAnswer> {
        Ok(Answered { status, body: String::new(), retry_after: retry_after.map(Duration::from_secs) })
    }

    fn no_answer(is_final: bool) -> Result<Answered, NoAnswer> {
        Err(NoAnswer { why: "as the test wants it".into(), is_final })
    }

    #[test]
    fn a_signature_is_that_of_rfc_4231() {
        // Its test case 2.
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want for nothing?");
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>(), want);
        assert_eq!(signature(&Secret::default(), "id", "1", "{}"), None);
        // Made with MLflow's own function: mlflow.webhooks.delivery._generate_hmac_signature("secret", "id", "1", "{}").
        assert_eq!(signature(&Secret::new("secret"), "id", "1", "{}").unwrap(), "v1,490pAcC1LQ1k1cOcmH0da199+A88OKCj0Io4WnJlp68=");
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_for_ever() {
        for good in [200, 204, 299] {
            assert_eq!(outcome(&status(good, None), 0), Outcome::Delivered);
        }
        for bad in [301, 302, 304, 400, 401, 404, 410] {
            assert_eq!(outcome(&status(bad, Some(1)), 0), Outcome::GivenUp, "{bad}");
        }
        assert_eq!(outcome(&no_answer(true), 0), Outcome::GivenUp);
        for again in [status(408, None), status(429, None), status(500, None), status(503, None), no_answer(false)] {
            for failed in 0..ATTEMPTS - 1 {
                let Outcome::Later(wait) = outcome(&again, failed) else { panic!("{again:?} {failed}") };
                let least = Duration::from_secs(1 << failed).min(LONGEST_WAIT);
                assert!(wait >= least && wait <= least * 3 / 2, "{failed}: {wait:?}");
            }
            assert_eq!(outcome(&again, ATTEMPTS - 1), Outcome::GivenUp);
        }
    }

    #[test]
    fn a_receiver_says_when_it_wants_to_be_asked_again() {
        for (said, waited) in [(0, 1), (1, 1), (90, 90), (1_000_000, 3600)] {
            assert_eq!(outcome(&status(503, Some(said)), 3), Outcome::Later(Duration::from_secs(waited)), "{said}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:00 GMT", now), Some(Duration::from_secs(23)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!((asked(" 7 ", now), asked("soon", now), asked("-1", now)), (Some(Duration::from_secs(7)), None, None));
    }
}
