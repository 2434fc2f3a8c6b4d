//! Where a store of MLflow says its artifacts are, where they are found, and how they come over.

use std::ffi::OsString;
use std::fs::FileType;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::AsyncReadExt;

use super::Differences;
use super::rows::{Kind, Tally};
use crate::artifacts::{ArtifactFile, ArtifactPath, Artifacts};
use crate::error::{Error, ErrorCode, Result};

/// How a place begins that the server itself keeps.
const OWN: &str = "mlflow-artifacts:/";
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// What the address of an artifact says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder of the machine that wrote it.
    Local(String),
    /// Kept by the server, below its own folder.
    Own(String),
    /// In a storage elsewhere, by its scheme.
    Elsewhere(String),
}

impl Place {
    pub fn read(uri: &str) -> Place {
        let uri = uri.trim_end_matches('/');
        let Some((scheme, rest)) = uri.split_once(':').filter(|(scheme, _)| !scheme.contains('/')) else { return Place::Local(uri.into()) };
        match scheme {
            "file" => {
                let path = rest.strip_prefix("//").map_or(rest, |rest| rest.find('/').map_or("", |at| &rest[at..]));
                Place::Local(decoded(path))
            }
            "mlflow-artifacts" => {
                let path = rest.strip_prefix("//").map_or(rest, |rest| rest.find('/').map_or("", |at| &rest[at..]));
                Place::Own(path.trim_start_matches('/').into())
            }
            // A drive of Windows.
            drive if drive.len() == 1 => Place::Local(uri.into()),
            scheme => Place::Elsewhere(scheme.into()),
        }
    }

    /// It comes over, if it is found.
    pub fn moves(&self) -> bool {
        !matches!(self, Place::Elsewhere(_))
    }
}

/// Folders in which artifacts are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// What relative paths begin at.
    pub base: PathBuf,
    /// What `mlflow-artifacts:/` is, and where folders may lie that are not where they were.
    pub roots: Vec<PathBuf>,
    /// What is read, without links in it: the source alone is not to say what is copied from this machine.
    pub allowed: Vec<PathBuf>,
    /// Folders that somebody named.
    pub named: Vec<PathBuf>,
    /// The source, where it lies on this machine, and the folder that it is brought to, if it is one: neither is anybody's artifact.
    pub source: Option<PathBuf>,
    pub data: Option<PathBuf>,
}

/// What became of the search for a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Folder(PathBuf),
    /// It is there, but not below what may be read.
    Outside(PathBuf),
    /// It cannot be told whether it is there, or it is none to be read, and why.
    Unreadable(PathBuf, String),
    Nowhere,
}

impl Places {
    /// The folder of a run, model or trace, `EXPERIMENT/…/artifacts` by MLflow's layout.
    pub fn find(&self, place: &Place, layout: &str) -> Found {
        let below =
            |path: &str| ArtifactPath::parse(path).is_ok().then(|| self.roots.iter().map(|root| root.join(path)).collect::<Vec<_>>());
        let mut candidates = Vec::new();
        match place {
            Place::Elsewhere(_) => return Found::Nowhere,
            Place::Local(path) if path.is_empty() => {}
            Place::Local(path) => candidates.push(self.base.join(path)),
            Place::Own(path) => candidates.extend(below(path).unwrap_or_default()),
        }
        candidates.extend(below(layout).unwrap_or_default());
        let mut found = Found::Nowhere;
        for candidate in candidates {
            match std::fs::canonicalize(&candidate) {
                Ok(folder) if !folder.is_dir() => {}
                Ok(folder) if !self.allowed.iter().any(|root| folder.starts_with(root)) => found = Found::Outside(folder),
                Ok(folder) if self.source.as_ref().is_some_and(|source| source.starts_with(&folder)) => {
                    found = Found::Unreadable(folder, "the source lies in it".into())
                }
                Ok(folder) if self.data.as_ref().is_some_and(|data| data.starts_with(&folder) || folder.starts_with(data)) => {
                    found = Found::Unreadable(folder, "the folder to bring it to lies in it, or it in that".into());
                }
                Ok(folder) => return Found::Folder(folder),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => found = Found::Unreadable(candidate, e.to_string()),
            }
        }
        found
    }

    /// Whether the folder of an experiment is there, or one like it beside where it would be: then the experiment has no artifacts. An empty folder that
    /// somebody named says the same.
    pub fn has(&self, place: &Place, experiment: i64, experiments: &[i64]) -> bool {
        let is_empty = |root: &Path| std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        let holds = |root: &Path| is_empty(root) || experiments.iter().any(|id| root.join(id.to_string()).is_dir());
        let is_found = |place: &Place| self.find(place, &experiment.to_string()) != Found::Nowhere;
        self.named.iter().any(|root| is_empty(root))
            || match place {
                Place::Local(path) => is_found(place) || self.base.join(path).parent().is_some_and(holds),
                // In the folder of a file store lie experiments, which says nothing about where a server keeps artifacts.
                Place::Own(_) => {
                    let is_of_source = |root: &Path| self.source.as_ref().is_some_and(|source| root.starts_with(source));
                    self.roots.iter().any(|root| !is_of_source(root) && holds(root))
                }
                Place::Elsewhere(_) => is_found(&Place::Local(String::new())),
            }
    }
}

/// What became of a file.
enum Copied {
    Came,
    /// It is here with the same content.
    Same,
    /// One of other content was here.
    Replaced,
    /// What is here is another, and stays.
    Differs,
}

/// Which side failed.
enum Failed {
    Source(std::io::Error),
    Target(Error),
    /// The storage takes no file of this name or size, and why.
    Refused(String),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed::Source(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Target(error)
    }
}

/// Copies what lies in `from`. What cannot be read there, or is not taken by the storage here, is counted. A file that is here with other content is one that
/// differs; where `differences` is none, its owner is not finished here, and it is replaced.
///
/// # Errors
/// When what is here cannot be written to.
pub(crate) async fn copy(
    artifacts: &Artifacts,
    from: &Path,
    to: &ArtifactPath,
    differences: Option<Differences>,
    tally: &mut Tally,
    told: &(impl Fn(&str, u64) + Send + Sync),
) -> Result<()> {
    let mut folders = vec![(from.to_path_buf(), String::new())];
    while let Some((folder, below)) = folders.pop() {
        let mut entries = None;
        loop {
            let (name, path, kind) = match next(&folder, &mut entries).await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(e) => {
                    tally.unreadable(&folder, &e.to_string());
                    break;
                }
            };
            let name = name.to_str().map(|name| if below.is_empty() { name.to_string() } else { format!("{below}/{name}") });
            let parsed = name.and_then(|name| ArtifactPath::parse(&name).ok().map(|parsed| (name, parsed)));
            if let (Some((name, _)), true) = (&parsed, kind.is_dir()) {
                folders.push((path, name.clone()));
                continue;
            }
            tally.read(Kind::Files, 1);
            let refused = match (&parsed, kind.is_dir()) {
                (None, true) => Some("it is a folder whose name is no path that is served, and what lies in it is not counted"),
                (None, false) => Some("its name is no path that is served"),
                (Some(_), _) if !kind.is_file() => Some("it is a link or no file"),
                (Some(_), _) => None,
            };
            if let Some(why) = refused {
                tally.left(Kind::Files, why, 1);
                tally.unreadable(&path, why);
            }
            let (Some((_, parsed)), None) = (parsed, refused) else { continue };
            match copy_file(artifacts, &path, &to.join(&parsed), differences == Some(Differences::Keep)).await {
                Ok(Copied::Differs) => tally.differ(Kind::Files, 1),
                Ok(Copied::Replaced) if differences.is_some() => tally.take(Kind::Files, 1),
                Ok(Copied::Came | Copied::Same | Copied::Replaced) => {}
                Err(Failed::Source(e)) => {
                    tally.left(Kind::Files, "it cannot be read", 1);
                    tally.unreadable(&path, &e.to_string());
                    continue;
                }
                Err(Failed::Refused(why)) => {
                    tally.left(Kind::Files, "the storage takes no file of its name or size", 1);
                    tally.unreadable(&path, &format!("the storage does not take it: {why}"));
                    continue;
                }
                Err(Failed::Target(e)) => return Err(e),
            }
            tally.files += 1;
            told(Kind::Files.name(), tally.files);
        }
    }
    Ok(())
}

/// What comes next in a folder, which is opened with the first.
async fn next(folder: &Path, entries: &mut Option<fs::ReadDir>) -> std::io::Result<Option<(OsString, PathBuf, FileType)>> {
    let entries = match entries {
        Some(entries) => entries,
        None => entries.insert(fs::read_dir(folder).await?),
    };
    let Some(entry) = entries.next_entry().await? else { return Ok(None) };
    Ok(Some((entry.file_name(), entry.path(), entry.file_type().await?)))
}

async fn copy_file(artifacts: &Artifacts, from: &Path, to: &ArtifactPath, keeps: bool) -> std::result::Result<Copied, Failed> {
    let mut file = fs::File::open(from).await?;
    let there = match artifacts.read(to, None).await {
        Err(e) if e.code == ErrorCode::InternalError => return Err(e.into()),
        there => there.ok(),
    };
    let is_there = there.is_some();
    if let Some(there) = there {
        if there.size == file.metadata().await?.len() && same(fs::File::open(from).await?, there).await? {
            return Ok(Copied::Same);
        }
        if keeps {
            return Ok(Copied::Differs);
        }
    }
    let refused = |e: Error| match e.code {
        ErrorCode::InvalidParameterValue => Failed::Refused(e.message),
        _ => Failed::Target(e),
    };
    let mut upload = artifacts.upload(to).await.map_err(refused)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let bytes = file.read(&mut chunk).await?;
        if bytes == 0 {
            break;
        }
        upload.write(&chunk[..bytes]).await.map_err(refused)?;
    }
    match upload.finish().await {
        Ok(()) if is_there => Ok(Copied::Replaced),
        Ok(()) => Ok(Copied::Came),
        // A folder has its name here, or a file that of its folder.
        Err(e) if e.code == ErrorCode::InvalidParameterValue => Ok(Copied::Differs),
        Err(e) => Err(e.into()),
    }
}

/// Whether a file has the content of the one of its size that is here.
async fn same(mut file: fs::File, mut there: ArtifactFile) -> std::result::Result<bool, Failed> {
    let mut own = Vec::new();
    while let Some(bytes) = there.next().await.map_err(|e| Failed::Target(Error::internal(&e)))? {
        own.resize(bytes.len(), 0);
        match file.read_exact(&mut own).await {
            // It has become shorter.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        };
        if own != bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The address of artifacts that lie here.
pub(crate) fn own(layout: &str) -> String {
    format!("{OWN}{layout}")
}

/// A path of a `file:` address.
fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_a_folder_of_the_server_or_elsewhere() {
        let local = |path: &str| Place::Local(path.into());
        let own = |path: &str| Place::Own(path.into());
        for (uri, place) in [
            ("./mlruns/0", local("./mlruns/0")),
            ("/a/b/", local("/a/b")),
            ("file:///a/b%20c", local("/a/b c")),
            ("file:/a", local("/a")),
            ("file://host/a", local("/a")),
            ("C:/x", local("C:/x")),
            ("mlflow-artifacts:/3/r/artifacts", own("3/r/artifacts")),
            ("mlflow-artifacts://host:5000/3", own("3")),
            ("s3://bucket/x", Place::Elsewhere("s3".into())),
            ("dbfs:/x", Place::Elsewhere("dbfs".into())),
        ] {
            assert_eq!(Place::read(uri), place, "{uri}");
        }
    }

    #[test]
    fn a_folder_is_found_where_it_is_or_where_it_was_moved_to_and_only_below_what_may_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| std::fs::canonicalize(dir.path()).unwrap().join(path);
        for folder in ["store/there", "store/moved/1/r/artifacts", "store/data/1", "secret"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink(at("secret"), at("store/link")).unwrap();
        std::fs::write(at("store/file"), "").unwrap();
        let places = Places {
            base: at("store"),
            roots: vec![at("store/moved")],
            allowed: vec![at("store")],
            named: Vec::new(),
            source: Some(at("store/file")),
            data: Some(at("store/data")),
        };
        let find = |uri: &str| places.find(&Place::read(uri), "1/r/artifacts");
        let (there, moved) = (Found::Folder(at("store/there")), Found::Folder(at("store/moved/1/r/artifacts")));
        assert_eq!((find(at("store/there").to_str().unwrap()), find("there")), (there, Found::Folder(at("store/there"))));
        for uri in ["/gone/1/r/artifacts", "mlflow-artifacts:/1/r/artifacts", "mlflow-artifacts:/../there", "file/below"] {
            assert_eq!(find(uri), moved, "{uri}");
        }
        assert_eq!(find("s3://bucket/1/r/artifacts"), Found::Nowhere);
        std::os::unix::fs::symlink(at("store/loop"), at("store/loop")).unwrap();
        let long = "x".repeat(5000);
        for uri in [long.as_str(), "a\0b", "loop", "data", "data/1"] {
            assert_eq!(find(uri), moved, "what cannot be looked at does not end the search: {uri}");
        }
        let find = |uri: &str| places.find(&Place::read(uri), "gone");
        assert_eq!((find("link"), find(at("secret").to_str().unwrap())), (Found::Outside(at("secret")), Found::Outside(at("secret"))));
        for uri in [long.as_str(), "a\0b", "loop", ".", "data", "data/1"] {
            assert!(matches!(find(uri), Found::Unreadable(..)), "what cannot be looked at is not missing: {uri}");
        }
    }

    #[test]
    fn an_experiment_has_no_artifacts_only_where_those_of_others_like_it_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| std::fs::canonicalize(dir.path()).unwrap().join(path);
        std::fs::create_dir_all(at("mlruns/7")).unwrap();
        std::fs::create_dir_all(at("named/x")).unwrap();
        let mut places = Places {
            base: at(""),
            roots: vec![at("named"), at("mlartifacts"), at("mlruns")],
            allowed: vec![at("")],
            named: vec![at("named")],
            source: Some(at("mlflow.db")),
            data: Some(at("tracking")),
        };
        let has = |places: &Places, uri: &str| {
            let like: &[i64] = if uri.starts_with("mlruns") { &[7, 9] } else { &[0] };
            places.has(&Place::read(uri), if like.len() == 1 { 0 } else { 9 }, like)
        };
        assert!(has(&places, "mlruns/9"), "beside 7");
        for uri in ["gone/0", "mlflow-artifacts:/0", "s3://bucket/0"] {
            assert!(!has(&places, uri), "{uri}: what is there is of others");
        }
        std::fs::create_dir_all(at("mlartifacts")).unwrap();
        assert!(has(&places, "mlflow-artifacts:/0") && !has(&places, "gone/0"), "its server never kept any");
        std::fs::create_dir_all(at("empty")).unwrap();
        places.named.push(at("empty"));
        assert!(has(&places, "gone/0"));
    }
}
