//! Logging in by SCRAM-SHA-256 (RFC 5802, RFC 7677): who has the key proves it, and the key itself does not cross the wire.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use super::Reader;

/// How often the key is hashed: the least that the protocol allows, as a key is 256 random bits and cannot be guessed.
const ITERATIONS: u32 = 4096;
/// Random bytes of salts and of what a server adds to a client's.
const BYTES: usize = 18;

type Hash = [u8; 32];

/// What tells that somebody has a key, without being of use to log in with it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored: Hash,
    server: Hash,
}

impl Verifier {
    /// For a new key.
    pub(super) fn of(secret: &str) -> anyhow::Result<Verifier> {
        Ok(Verifier::with(secret, random()?.to_vec(), ITERATIONS))
    }

    fn with(secret: &str, salt: Vec<u8>, iterations: u32) -> Verifier {
        let mut round = mac(secret.as_bytes(), &[&salt, &1_u32.to_be_bytes()]);
        let mut salted = round;
        for _ in 1..iterations {
            round = mac(secret.as_bytes(), &[&round]);
            salted = xor(salted, round);
        }
        let client = mac(&salted, &[b"Client Key"]);
        Verifier { iterations, salt, stored: Sha256::digest(client).into(), server: mac(&salted, &[b"Server Key"]) }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// As PostgreSQL writes it down.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| STANDARD.encode(bytes);
        write!(f, "SCRAM-SHA-256${}:{}${}:{}", self.iterations, text(&self.salt), text(&self.stored), text(&self.server))
    }
}

impl FromStr for Verifier {
    type Err = ();

    fn from_str(text: &str) -> Result<Verifier, ()> {
        let (salt, keys) = text.strip_prefix("SCRAM-SHA-256$").and_then(|text| text.split_once('$')).ok_or(())?;
        let ((iterations, salt), (stored, server)) = salt.split_once(':').zip(keys.split_once(':')).ok_or(())?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| ());
        let hash = |text: &str| bytes(text)?.try_into().map_err(|_| ());
        Ok(Verifier { iterations: iterations.parse().map_err(|_| ())?, salt: bytes(salt)?, stored: hash(stored)?, server: hash(server)? })
    }
}

impl Serialize for Verifier {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Verifier, D::Error> {
        String::deserialize(d)?.parse().map_err(|()| de::Error::custom("no verifier of SCRAM-SHA-256"))
    }
}

/// One login, from the client's first message to its last.
pub struct Exchange {
    verifier: Verifier,
    reader: Reader,
    /// What the server adds to the client's random letters.
    nonce: String,
    said: Option<Said>,
}

/// What was said first.
struct Said {
    /// How the client wants to be bound to the connection, in Base64.
    header: String,
    nonce: String,
    /// Both first messages, as they are signed.
    messages: String,
}

impl Exchange {
    pub(super) fn new(verifier: Verifier, reader: Reader) -> anyhow::Result<Exchange> {
        Ok(Exchange { verifier, reader, nonce: STANDARD.encode(random()?), said: None })
    }

    /// The answer to the client's first message; none: it makes no sense, or wants more than is offered.
    pub fn first(&mut self, message: &str) -> Option<String> {
        let mut parts = message.splitn(3, ',');
        let (binding, identity, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // Bound to the connection is what is offered by another name; on behalf of somebody else there is nothing.
        if !matches!(binding, "n" | "y") || !identity.is_empty() {
            return None;
        }
        // The name that was given when the connection began counts.
        let nonce = bare.split(',').nth(1)?.strip_prefix("r=").filter(|nonce| !nonce.is_empty())?;
        let nonce = format!("{nonce}{}", self.nonce);
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&self.verifier.salt), self.verifier.iterations);
        let header = STANDARD.encode(&message[..message.len() - bare.len()]);
        self.said = Some(Said { header, nonce, messages: format!("{bare},{answer}") });
        Some(answer)
    }

    /// The answer to the client's last message, and whom it proved to be; none: it proves nothing.
    pub fn last(&mut self, message: &str) -> Option<(String, Reader)> {
        // Once only.
        let said = self.said.take()?;
        let (rest, proof) = message.rsplit_once(",p=")?;
        let mut parts = rest.split(',');
        let (header, nonce) = (parts.next()?.strip_prefix("c=")?, parts.next()?.strip_prefix("r=")?);
        if header != said.header || nonce != said.nonce {
            return None;
        }
        let signed = format!("{},{rest}", said.messages);
        let proof: Hash = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let client = xor(proof, mac(&self.verifier.stored, &[signed.as_bytes()]));
        // Compared in constant time.
        let found = blake3::hash(&Sha256::digest(client));
        if found != blake3::hash(&self.verifier.stored) {
            return None;
        }
        let answer = format!("v={}", STANDARD.encode(mac(&self.verifier.server, &[signed.as_bytes()])));
        Some((answer, self.reader.clone()))
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hash {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(a: Hash, b: Hash) -> Hash {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn random() -> anyhow::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system gives no random numbers: {e}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::access::Access;
    use crate::access::keys::{self, NewKey, Role, Sight};

    /// The example of RFC 7677.
    fn example() -> Exchange {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let reader = Reader { name: "user".into(), hash: [1; 32] };
        Exchange { verifier: Verifier::with("pencil", salt, 4096), reader, nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(), said: None }
    }

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn who_has_the_key_is_let_in_and_is_told_that_the_server_knows_it() {
        let mut exchange = example();
        let first = exchange.first(FIRST).unwrap();
        assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let (last, reader) = exchange.last(LAST).unwrap();
        assert_eq!((last.as_str(), reader.name.as_str()), ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "user"));
        assert!(exchange.last(LAST).is_none(), "a second time");
    }

    #[test]
    fn whatever_else_is_said_is_refused() {
        for bad in ["", "n", "n,,", "n,,n=user", "n,,n=user,r=", "p=tls-server-end-point,,n=user,r=abc", "n,a=root,n=user,r=abc"] {
            assert!(example().first(bad).is_none(), "{bad}");
        }
        let other_nonce = LAST.replace("k0,p", "k1,p");
        let other_proof = LAST.replace("p=dH", "p=eH");
        let other_binding = LAST.replace("c=biws", "c=eSws");
        for bad in [other_nonce.as_str(), &other_proof, &other_binding, "", "p=", &LAST[..LAST.len() - 4]] {
            let mut exchange = example();
            exchange.first(FIRST).unwrap();
            assert!(exchange.last(bad).is_none(), "{bad}");
        }
        assert!(example().last(LAST).is_none(), "before anything was said");
    }

    #[test]
    fn a_reader_is_known_by_its_key_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str, role| NewKey {
            name: name.into(),
            role,
            experiments: BTreeMap::new(),
            models: BTreeMap::new(),
            grants: None,
            lasts: None,
        };
        let secret = keys::create(dir.path(), of("ada", Role::Read)).unwrap();
        keys::create(dir.path(), of("nobody", Role::None)).unwrap();
        let access = Access::of_folder(dir.path()).unwrap();
        let reader = access.reader(&secret, "a test").unwrap();
        assert!(reader.name == "ada" && access.sight(Some(&reader)) == Some(Sight::Everything));
        assert!(access.sight(None).is_none(), "who came in while it was open");
        assert!(access.sight(Some(&Reader { hash: [0; 32], ..reader.clone() })).is_none(), "another of that name");
        assert!(access.exchange("ada").is_some() && access.exchange("nobody").is_none() && access.exchange("bob").is_none());
        keys::revoke(dir.path(), "ada").unwrap();
        let begun = std::time::Instant::now();
        while access.sight(Some(&reader)).is_some() {
            assert!(begun.elapsed().as_secs() < 60, "the file is looked at each second");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(access.exchange("ada").is_none());
    }

    #[test]
    fn a_verifier_comes_back_from_its_text() {
        let verifier = Verifier::of("kilter_0123").unwrap();
        assert_eq!(verifier.to_string().parse(), Ok(verifier.clone()));
        assert!(verifier != Verifier::of("kilter_0123").unwrap(), "each has a salt of its own");
        assert!("SCRAM-SHA-256$4096:a$b:c".parse::<Verifier>().is_err());
    }
}
