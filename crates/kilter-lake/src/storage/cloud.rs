//! A lake on S3, Google Cloud or Azure.
//!
//! An object is there with its last byte, so nothing is written aside; what must not replace anything is put on condition that nothing is there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, PutMode, PutPayload};
use tokio::runtime::{Builder, Runtime};

use super::Storage;

/// A bucket or container, and a prefix in it.
pub(super) struct Cloud {
    store: std::sync::Arc<dyn ObjectStore>,
    prefix: Path,
    /// Requests run here, so that any thread can wait for them, those of another runtime too.
    runtime: Option<Runtime>,
}

impl Cloud {
    /// # Errors
    /// A URL of no known kind; a property that is not known.
    pub(super) fn open(url: &str, properties: &BTreeMap<String, String>) -> anyhow::Result<Cloud> {
        let parsed = url.parse().with_context(|| format!("{url} is no URL"))?;
        let (kind, _) = ObjectStoreScheme::parse(&parsed).map_err(|e| anyhow!("{url} is no place for a lake: {e}"))?;
        for key in properties.keys() {
            ensure!(
                is_known(&kind, key),
                "`lake.properties.{key}` is nothing that this storage knows\n  hint: see https://docs.rs/object_store"
            );
        }
        // Keys that the program's environment has, such as AWS_ACCESS_KEY_ID, are not taken by themselves: the definitions say what is used.
        let (store, prefix) = object_store::parse_url_opts(&parsed, properties).with_context(|| format!("the lake {url}"))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("lake-storage").enable_all().build()?;
        Ok(Cloud { store: store.into(), prefix, runtime: Some(runtime) })
    }

    fn at(&self, path: &str) -> Path {
        path.split('/').fold(self.prefix.clone(), |whole, part| whole.join(part))
    }

    /// Waits for a request; none: there is no such object.
    fn wait<T: Send + 'static>(
        &self,
        what: &str,
        path: &str,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> anyhow::Result<Option<T>> {
        let (sender, answer) = mpsc::sync_channel(1);
        let runtime = self.runtime.as_ref().context("the lake is closed")?;
        runtime.spawn(async move {
            // Who waits is there until the answer has come.
            let _ = sender.send(request.await);
        });
        match answer.recv().with_context(|| format!("{what} {path}: the request ended badly"))? {
            Ok(value) => Ok(Some(value)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(anyhow::Error::new(e).context(format!("cannot {what} {path} in the lake"))),
        }
    }

    fn put_as(&self, path: &str, bytes: &[u8], mode: PutMode) -> anyhow::Result<bool> {
        let (store, at, payload) = (self.store.clone(), self.at(path), PutPayload::from(Bytes::copy_from_slice(bytes)));
        let put = async move {
            match store.put_opts(&at, payload, mode.into()).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        };
        self.wait("write", path, put)?.with_context(|| format!("cannot write {path}: there is no such bucket or container"))
    }
}

/// Whether a kind of storage has such a setting: the library passes over those that it does not know.
fn is_known(kind: &ObjectStoreScheme, key: &str) -> bool {
    match kind {
        ObjectStoreScheme::AmazonS3 => key.parse::<AmazonS3ConfigKey>().is_ok(),
        ObjectStoreScheme::GoogleCloudStorage => key.parse::<GoogleConfigKey>().is_ok(),
        ObjectStoreScheme::MicrosoftAzure => key.parse::<AzureConfigKey>().is_ok(),
        _ => false,
    }
}

impl Storage for Cloud {
    fn put(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.put_as(path, bytes, PutMode::Overwrite).map(|_| ())
    }

    fn create(&self, path: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        self.put_as(path, bytes, PutMode::Create)
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        let (store, at) = (self.store.clone(), self.at(path));
        self.wait("read", path, async move { store.get(&at).await?.bytes().await })
    }

    fn read_range(&self, path: &str, range: Range<u64>) -> anyhow::Result<Option<Bytes>> {
        let (store, at) = (self.store.clone(), self.at(path));
        self.wait("read", path, async move { store.get_range(&at, range).await })
    }

    fn delete(&self, path: &str) -> anyhow::Result<()> {
        let (store, at) = (self.store.clone(), self.at(path));
        self.wait("remove", path, async move { store.delete(&at).await }).map(|_| ())
    }

    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let (store, at) = (self.store.clone(), self.at(folder));
        let found = self.wait("list", folder, async move { store.list_with_delimiter(Some(&at)).await })?;
        let objects = found.map(|found| found.objects).unwrap_or_default();
        let mut names: Vec<String> = objects.iter().filter_map(|object| Some(object.location.filename()?.to_owned())).collect();
        names.sort_unstable();
        Ok(names)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Waiting is not allowed where another runtime drops the lake; no request is under way.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
