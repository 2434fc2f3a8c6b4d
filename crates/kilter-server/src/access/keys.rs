//! The keys that programs send, and the file of a data folder that keeps their hashes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use kilter_core::{EventTime, Span};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::scram::Verifier;

/// The file, in the data folder of a project or of a tracking server.
pub const FILE: &str = "keys.json";
/// What every key begins with, so that scanners of secrets and people know one.
const PREFIX: &str = "kilter_";
/// Random bytes of a key.
const BYTES: usize = 32;
/// Keys of one file at most: each request is compared with all of them.
const MOST: usize = 1000;
const NAME_BYTES: usize = 64;
/// Grants of one key, and bytes of each.
const GRANTS: usize = 64;
const GRANT_BYTES: usize = 4096;

/// What a key may do; each has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not even see it.
    None,
    /// Ask.
    Read,
    /// Send events, ask for decisions, log runs.
    Write,
    /// Change what is in service, and take things away.
    Manage,
}

impl Role {
    /// Every role with its word.
    pub const ALL: [(Role, &'static str); 4] =
        [(Role::None, "none"), (Role::Read, "read"), (Role::Write, "write"), (Role::Manage, "manage")];

    /// The role of a word.
    pub fn parse(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|(_, known)| *known == word).map(|(role, _)| role)
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Role::ALL.into_iter().find(|(role, _)| *role == self).map_or("none", |(_, word)| word)
    }
}

/// A key as the file keeps it: everything but the key itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
// What a later release may restrict keys by is not passed over by an earlier one.
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What it is called, in the log and when it is revoked.
    pub name: String,
    /// What it may do where nothing else is said.
    pub role: Role,
    /// What it may do instead in single experiments, by name or id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub experiments: BTreeMap<String, Role>,
    /// What it may do instead with single models, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Role>,
    /// What it may see in SQL: tables, columns and rows of them, each grant as it was written; none: everything, where it has `read` everywhere. A release that knows
    /// nothing of grants refuses the file.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "write_grants", deserialize_with = "read_grants")]
    pub grants: Option<Arc<[String]>>,
    /// When it was made.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub created: EventTime,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "write_some", deserialize_with = "read_some")]
    pub expires: Option<EventTime>,
    /// BLAKE3 of the key. It is 256 random bits: no slow hash is needed to keep it from being guessed.
    #[serde(serialize_with = "write_hash", deserialize_with = "read_hash")]
    pub(super) hash: blake3::Hash,
    /// What proves the key by SCRAM-SHA-256; none: it was made before there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scram: Option<Verifier>,
}

impl Key {
    pub(super) fn is_expired(&self, now: EventTime) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// All that it has anywhere.
    pub(super) fn roles(&self) -> impl Iterator<Item = Role> {
        std::iter::once(self.role).chain(self.experiments.values().chain(self.models.values()).copied())
    }

    /// What it may see in SQL; none: it may not ask. SQL reaches all experiments and models, so that without grants it wants `read` everywhere.
    pub(super) fn sight(&self) -> Option<Sight> {
        match &self.grants {
            Some(grants) => (!grants.is_empty()).then(|| Sight::Granted(Arc::clone(grants))),
            None => self.roles().all(|role| role >= Role::Read).then_some(Sight::Everything),
        }
    }
}

/// What somebody may see in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All tables.
    Everything,
    /// What these grants say.
    Granted(Arc<[String]>),
}

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// As [`Key::name`].
    pub name: String,
    /// As [`Key::role`].
    pub role: Role,
    /// As [`Key::experiments`].
    pub experiments: BTreeMap<String, Role>,
    /// As [`Key::models`].
    pub models: BTreeMap<String, Role>,
    /// As [`Key::grants`]. Whoever can read them holds them against the project's tables before.
    pub grants: Option<Vec<String>>,
    /// How long it is good for; none: until it is revoked.
    pub lasts: Option<Span>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<Key>,
}

/// Makes a key and answers it: it is written down nowhere.
///
/// # Errors
/// When the name is taken or cannot be one, or the file cannot be read or written.
pub fn create(folder: &Path, new: NewKey) -> anyhow::Result<String> {
    let NewKey { name, role, experiments, models, grants, lasts } = new;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    ensure!(
        !name.is_empty() && name.len() <= NAME_BYTES && name.chars().all(is_plain),
        "`{name}` cannot be the name of a key\n  hint: up to {NAME_BYTES} letters, digits and -_.@"
    );
    let grants = grants.map(kept).transpose()?;
    let created = now();
    let expires = lasts.map(|lasts| created + lasts);
    let secret = secret()?;
    let (hash, scram) = (hash(&secret), Some(Verifier::of(&secret)?));
    changed(folder, |keys| {
        ensure!(
            keys.iter().all(|key| key.name != name),
            "there is a key `{name}` already\n  hint: `kilter key revoke {name}` first, or choose another name"
        );
        ensure!(keys.len() < MOST, "there are {MOST} keys, which is the most\n  hint: `kilter key revoke` those that nobody uses");
        keys.push(Key { name, role, experiments, models, grants, created, expires, hash, scram });
        Ok(())
    })?;
    Ok(secret)
}

/// Gives a key these grants in place of those that it has; none: what it may see in SQL goes by its roles.
///
/// # Errors
/// When there is none of that name, or the file cannot be read or written.
pub fn grant(folder: &Path, name: &str, grants: Option<Vec<String>>) -> anyhow::Result<()> {
    let grants = grants.map(kept).transpose()?;
    changed(folder, |keys| {
        let key = keys.iter_mut().find(|key| key.name == name);
        let key = key.with_context(|| format!("there is no key `{name}`\n  hint: `kilter key list` shows them"))?;
        key.grants = grants;
        Ok(())
    })
}

/// Grants within bounds.
fn kept(grants: Vec<String>) -> anyhow::Result<Arc<[String]>> {
    ensure!(
        grants.len() <= GRANTS,
        "a key has at most {GRANTS} grants, and these are {}\n  hint: `SCHEMA.*` grants all tables of a schema",
        grants.len()
    );
    for grant in &grants {
        ensure!(grant.len() <= GRANT_BYTES, "a grant has at most {GRANT_BYTES} bytes, and one has {}", grant.len());
    }
    Ok(grants.into())
}

/// Takes a key away; answers how many are left.
///
/// # Errors
/// When there is none of that name, or the file cannot be read or written.
pub fn revoke(folder: &Path, name: &str) -> anyhow::Result<usize> {
    changed(folder, |keys| {
        let before = keys.len();
        keys.retain(|key| key.name != name);
        ensure!(keys.len() < before, "there is no key `{name}`\n  hint: `kilter key list` shows them");
        Ok(keys.len())
    })
}

/// All keys, in the order they were made; none: there is no file.
///
/// # Errors
/// When the file cannot be read.
pub fn list(folder: &Path) -> anyhow::Result<Option<Vec<Key>>> {
    read(folder)?.map(|text| parse(folder, &text)).transpose()
}

/// The file as it is; none: there is none.
pub(super) fn read(folder: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What the file of a folder says.
pub(super) fn parse(folder: &Path, text: &[u8]) -> anyhow::Result<Vec<Key>> {
    let file: KeysFile = serde_json::from_slice(text).with_context(|| {
        let path = folder.join(FILE);
        format!("{} is no file of keys\n  hint: `kilter key create` makes one once this one is moved away", path.display())
    })?;
    Ok(file.keys)
}

/// A key for what lives as long as this process.
pub(super) fn of_this_process() -> anyhow::Result<(Key, String)> {
    let secret = secret()?;
    let none = BTreeMap::new;
    let key = Key {
        name: "this-process".into(),
        role: Role::Manage,
        experiments: none(),
        models: none(),
        grants: None,
        created: now(),
        expires: None,
        hash: hash(&secret),
        scram: None,
    };
    Ok((key, secret))
}

/// The hash of what may be a key; none: it cannot be one.
pub(super) fn hash_of_key(text: &str) -> Option<blake3::Hash> {
    let digits = text.strip_prefix(PREFIX)?;
    let is_key = digits.len() == 2 * BYTES && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_key.then(|| hash(text))
}

pub(super) fn now() -> EventTime {
    EventTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
}

fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system gives no random numbers: {e}"))?;
    Ok(bytes.iter().fold(PREFIX.to_string(), |text, byte| text + &format!("{byte:02x}")))
}

/// Changes the file: whole or not at all, and one change after the other.
fn changed<T>(folder: &Path, change: impl FnOnce(&mut Vec<Key>) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let cannot = |what: &Path| format!("cannot write {}", what.display());
    std::fs::create_dir_all(folder).with_context(|| cannot(folder))?;
    let lock = File::open(folder).with_context(|| cannot(folder))?;
    lock.lock().with_context(|| cannot(folder))?;
    let mut keys = list(folder)?.unwrap_or_default();
    let done = change(&mut keys)?;
    let (path, fresh) = (folder.join(FILE), folder.join("keys.json.new"));
    let mut text = serde_json::to_vec_pretty(&KeysFile { keys })?;
    text.push(b'\n');
    // Of an earlier try, with whatever rights.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(|| cannot(&fresh)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).with_context(|| cannot(&fresh))?;
    if let Err(e) = hand_over(&file, folder, &path) {
        let _ = std::fs::remove_file(&fresh);
        return Err(e);
    }
    file.write_all(&text).and_then(|()| file.sync_all()).with_context(|| cannot(&fresh))?;
    std::fs::rename(&fresh, &path).and_then(|()| lock.sync_all()).with_context(|| cannot(&path))?;
    Ok(done)
}

/// Gives the new file to who owns the old one, else the folder: the server that reads it runs as them, and nobody else can read it.
fn hand_over(file: &File, folder: &Path, old: &Path) -> anyhow::Result<()> {
    let before = match std::fs::metadata(old) {
        Err(e) if e.kind() == ErrorKind::NotFound => std::fs::metadata(folder),
        found => found,
    };
    let cannot = || format!("cannot tell who owns {}", old.display());
    let (before, own) = (before.with_context(cannot)?, file.metadata().with_context(cannot)?);
    if own.uid() == before.uid() {
        return Ok(());
    }
    fchown(file, Some(before.uid()), Some(before.gid())).with_context(|| {
        let uid = before.uid();
        format!(
            "{} would not belong to the user {uid}, as it must for the server to read it\n  hint: run the command as that user",
            old.display()
        )
    })
}

fn write_time<S: Serializer>(time: &EventTime, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(time)
}

fn read_time<'de, D: Deserializer<'de>>(d: D) -> Result<EventTime, D::Error> {
    let text = String::deserialize(d)?;
    EventTime::parse(&text).ok_or_else(|| de::Error::custom(format!("`{text}` is no time")))
}

fn write_some<S: Serializer>(time: &Option<EventTime>, s: S) -> Result<S::Ok, S::Error> {
    time.as_ref().map(EventTime::to_string).serialize(s)
}

fn read_some<'de, D: Deserializer<'de>>(d: D) -> Result<Option<EventTime>, D::Error> {
    read_time(d).map(Some)
}

fn write_grants<S: Serializer>(grants: &Option<Arc<[String]>>, s: S) -> Result<S::Ok, S::Error> {
    grants.as_deref().serialize(s)
}

fn read_grants<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<[String]>>, D::Error> {
    // Where they stand they are a list: null is no way to see everything.
    Vec::<String>::deserialize(d).map(|grants| Some(grants.into()))
}

fn write_hash<S: Serializer>(hash: &blake3::Hash, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&hash.to_hex())
}

fn read_hash<'de, D: Deserializer<'de>>(d: D) -> Result<blake3::Hash, D::Error> {
    blake3::Hash::from_hex(String::deserialize(d)?).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn new(name: &str) -> NewKey {
        NewKey { name: name.into(), role: Role::Read, experiments: BTreeMap::new(), models: BTreeMap::new(), grants: None, lasts: None }
    }

    #[test]
    fn a_key_is_shown_once_and_kept_as_a_hash_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(dir.path()).unwrap().is_none());
        let models = BTreeMap::from([("risk".to_string(), Role::Manage)]);
        let secret = create(dir.path(), NewKey { models, lasts: Some(Span::DAY), ..new("ci") }).unwrap();
        let other = create(dir.path(), new("other")).unwrap();
        assert!(secret != other && secret.len() == PREFIX.len() + 64 && hash_of_key(&secret).is_some(), "{secret}");
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(PREFIX) && !text.contains(&secret[PREFIX.len()..]), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let keys = list(dir.path()).unwrap().unwrap();
        assert_eq!(keys[0].hash, hash_of_key(&secret).unwrap());
        // A file of an earlier release has none of these.
        let earlier =
            text.lines().filter(|line| !line.contains("\"scram\"")).collect::<Vec<_>>().join("\n").replace("\",\n    }", "\"\n    }");
        assert!(keys[0].scram.is_some() && parse(dir.path(), earlier.as_bytes()).unwrap()[0].scram.is_none());
        assert_eq!((keys[0].models["risk"], keys[0].expires), (Role::Manage, Some(keys[0].created + Span::DAY)));

        let again = create(dir.path(), new("ci")).unwrap_err().to_string();
        assert!(again.contains("already") && again.contains("kilter key revoke ci"), "{again}");
        assert!(create(dir.path(), new("a b")).is_err() && create(dir.path(), new("")).is_err());
        assert_eq!(revoke(dir.path(), "ci").unwrap(), 1);
        assert!(revoke(dir.path(), "ci").unwrap_err().to_string().contains("there is no key"));
        assert_eq!(revoke(dir.path(), "other").unwrap(), 0);
        assert!(list(dir.path()).unwrap().unwrap().is_empty());
    }

    #[test]
    fn the_file_belongs_to_who_owned_it_before_and_at_first_to_who_owns_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
        // Only the superuser can give files away, and only then is there anything to see.
        let is_root = owner(dir.path()) == 0;
        let give = |path: &Path, to: u32| {
            if is_root {
                std::os::unix::fs::chown(path, Some(to), Some(to)).unwrap()
            }
        };
        let path = dir.path().join(FILE);
        give(dir.path(), 4711);
        create(dir.path(), new("a")).unwrap();
        assert_eq!(owner(&path), owner(dir.path()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        give(&path, 4712);
        create(dir.path(), new("b")).unwrap();
        revoke(dir.path(), "a").unwrap();
        assert_eq!(owner(&path), if is_root { 4712 } else { owner(dir.path()) });
    }

    #[test]
    fn what_is_no_key_has_no_hash() {
        let key = secret().unwrap();
        for bad in
            ["", "kilter_", &key[1..], &key[..key.len() - 1], &format!("{key}0"), &key.replace("kilter_", "kilter-"), &"k".repeat(1 << 20)]
        {
            assert!(hash_of_key(bad).is_none(), "{}", bad.len());
        }
    }

    #[test]
    fn grants_are_kept_as_they_are_written_and_say_what_is_seen_in_sql() {
        let dir = tempfile::tempdir().unwrap();
        let only = |name: &str| list(dir.path()).unwrap().unwrap().into_iter().find(|key| key.name == name).unwrap();
        let texts = vec!["events.payments (id) WHERE country = 'DE'".to_string(), "decisions".into()];
        create(dir.path(), NewKey { role: Role::None, grants: Some(texts.clone()), ..new("bi") }).unwrap();
        create(dir.path(), new("ada")).unwrap();
        assert_eq!(only("bi").sight(), Some(Sight::Granted(texts.clone().into())));
        assert_eq!(only("ada").sight(), Some(Sight::Everything));
        // Whoever has none of its own has what the role gives; whoever has an empty list has nothing.
        grant(dir.path(), "ada", Some(texts)).unwrap();
        assert!(matches!(only("ada").sight(), Some(Sight::Granted(_))));
        grant(dir.path(), "ada", Some(Vec::new())).unwrap();
        assert_eq!(only("ada").sight(), None);
        grant(dir.path(), "ada", None).unwrap();
        assert_eq!(only("ada").sight(), Some(Sight::Everything));
        grant(dir.path(), "bi", None).unwrap();
        assert_eq!(only("bi").sight(), None, "it has no role");
        assert!(grant(dir.path(), "bob", None).unwrap_err().to_string().contains("there is no key"));
        let many = |count: usize, bytes: usize| Some(vec!["x".repeat(bytes); count]);
        for bad in [many(65, 1), many(1, 4097)] {
            assert!(grant(dir.path(), "bi", bad.clone()).is_err() && create(dir.path(), NewKey { grants: bad, ..new("c") }).is_err());
        }
        // What is no list of grants opens nothing by itself.
        grant(dir.path(), "bi", many(1, 1)).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let nulled = text.replace("[\n        \"x\"\n      ]", "null");
        assert!(nulled != text && parse(dir.path(), nulled.as_bytes()).is_err(), "{nulled}");
    }

    #[test]
    fn a_file_that_says_more_than_is_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        create(dir.path(), new("a")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in ["", "[]", &text.replace("\"role\"", "\"only_from\": \"10.0.0.1\", \"role\""), &text.replace("read", "all")] {
            std::fs::write(&path, bad).unwrap();
            assert!(list(dir.path()).is_err() && create(dir.path(), new("b")).is_err(), "{bad}");
        }
    }
}
