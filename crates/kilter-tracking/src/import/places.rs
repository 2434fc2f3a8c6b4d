//! Where a store of MLflow says its artifacts are, where they are found, and how they come over.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::AsyncReadExt;

use super::rows::{Kind, Tally};
use crate::artifacts::{ArtifactPath, Artifacts};
use crate::error::{Error, Result};

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
}

/// What became of the search for a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Folder(PathBuf),
    /// It is there, but not below what may be read.
    Outside(PathBuf),
    Nowhere,
}

impl Places {
    /// The folder of a run, model or trace, `EXPERIMENT/…/artifacts` by MLflow's layout.
    ///
    /// # Errors
    /// When it cannot be told whether it is there.
    pub fn find(&self, place: &Place, layout: &str) -> Result<Found> {
        let below =
            |path: &str| ArtifactPath::parse(path).is_ok().then(|| self.roots.iter().map(|root| root.join(path)).collect::<Vec<_>>());
        let mut candidates = Vec::new();
        match place {
            Place::Elsewhere(_) => return Ok(Found::Nowhere),
            Place::Local(path) if path.is_empty() => {}
            Place::Local(path) => candidates.push(self.base.join(path)),
            Place::Own(path) => candidates.extend(below(path).unwrap_or_default()),
        }
        candidates.extend(below(layout).unwrap_or_default());
        let mut found = Found::Nowhere;
        for candidate in candidates {
            match std::fs::canonicalize(&candidate) {
                Ok(folder) if !folder.is_dir() => {}
                Ok(folder) if self.allowed.iter().any(|root| folder.starts_with(root)) => return Ok(Found::Folder(folder)),
                Ok(folder) => found = Found::Outside(folder),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => return Err(Error::invalid(format!("cannot read {}: {e}", candidate.display()))),
            }
        }
        Ok(found)
    }
}

/// Copies what lies in `from`. A file that is there with the same content stays; one that differs is replaced.
///
/// # Errors
/// When a file cannot be read, or the disk fails.
pub(crate) async fn copy(
    artifacts: &Artifacts,
    from: &Path,
    to: &str,
    tally: &mut Tally,
    told: &(impl Fn(&str, u64) + Send + Sync),
) -> Result<()> {
    let root = ArtifactPath::parse(to)?;
    let mut folders = vec![(from.to_path_buf(), String::new())];
    while let Some((folder, below)) = folders.pop() {
        let failed = |e: std::io::Error| Error::invalid(format!("cannot read {}: {e}", folder.display()));
        let mut entries = fs::read_dir(&folder).await.map_err(failed)?;
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let kind = entry.file_type().await.map_err(failed)?;
            let name = entry.file_name().to_str().map(str::to_string);
            let path = name.map(|name| if below.is_empty() { name } else { format!("{below}/{name}") });
            let Some((path, parsed)) = path.and_then(|path| ArtifactPath::parse(&path).ok().map(|parsed| (path, parsed))) else {
                tally.read(Kind::Files, 1);
                tally.left(Kind::Files, "its name is no path that is served", 1);
                continue;
            };
            if kind.is_dir() {
                folders.push((entry.path(), path));
            } else if kind.is_file() {
                tally.read(Kind::Files, 1);
                copy_file(artifacts, &entry.path(), &root.join(&parsed)).await?;
                tally.files += 1;
                told(Kind::Files.name(), tally.files);
            } else {
                tally.read(Kind::Files, 1);
                tally.left(Kind::Files, "it is a link or no file", 1);
            }
        }
    }
    Ok(())
}

async fn copy_file(artifacts: &Artifacts, from: &Path, to: &ArtifactPath) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid(format!("cannot read {}: {e}", from.display()));
    let size = fs::metadata(from).await.map_err(failed)?.len();
    if let Ok(there) = artifacts.read(to).await
        && there.size == size
        && same(fs::File::open(from).await.map_err(failed)?, there.file).await.map_err(failed)?
    {
        return Ok(());
    }
    let mut file = fs::File::open(from).await.map_err(failed)?;
    let mut upload = artifacts.upload(to).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).await.map_err(failed)? {
            0 => return upload.finish().await,
            bytes => upload.write(&chunk[..bytes]).await?,
        }
    }
}

/// Whether two files of one size have the same content.
async fn same(mut a: fs::File, mut b: fs::File) -> std::io::Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let bytes = a.read(&mut left).await?;
        if bytes == 0 {
            return Ok(true);
        }
        if b.read_exact(&mut right[..bytes]).await.is_err() || left[..bytes] != right[..bytes] {
            return Ok(false);
        }
    }
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
        for folder in ["store/there", "store/moved/1/r/artifacts", "secret"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink(at("secret"), at("store/link")).unwrap();
        std::fs::write(at("store/file"), "").unwrap();
        let places = Places { base: at("store"), roots: vec![at("store/moved")], allowed: vec![at("store")] };
        let find = |uri: &str| places.find(&Place::read(uri), "1/r/artifacts").unwrap();
        let (there, moved) = (Found::Folder(at("store/there")), Found::Folder(at("store/moved/1/r/artifacts")));
        assert_eq!((find(at("store/there").to_str().unwrap()), find("there")), (there, Found::Folder(at("store/there"))));
        for uri in ["/gone/1/r/artifacts", "mlflow-artifacts:/1/r/artifacts", "mlflow-artifacts:/../there", "file/below"] {
            assert_eq!(find(uri), moved, "{uri}");
        }
        assert_eq!(find("s3://bucket/1/r/artifacts"), Found::Nowhere);
        let find = |uri: &str| places.find(&Place::read(uri), "gone").unwrap();
        assert_eq!((find("link"), find(at("secret").to_str().unwrap())), (Found::Outside(at("secret")), Found::Outside(at("secret"))));
        std::os::unix::fs::symlink(at("store/loop"), at("store/loop")).unwrap();
        assert!(places.find(&Place::read("loop"), "gone").is_err(), "what cannot be looked at is not missing");
    }
}
