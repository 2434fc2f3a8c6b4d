//! Learning from rows that do not fit into memory: they come from a Python iterable, batch by batch.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kilter_learn::{Gbdt, LearnError, gbdt};
use memmap2::MmapMut;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::model::{Model, Rows, training_set};
use crate::{threads, value_error};

/// What gives `(table, labels, weights or None)` for each batch, anew each time it is iterated.
struct Given {
    iterable: Py<PyAny>,
    names: Vec<String>,
    rows: usize,
    /// What Python raised, which is more than the words of it that the learner is told.
    raised: Option<PyErr>,
}

impl gbdt::Batches for Given {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn each(&mut self, take: &mut gbdt::Take<'_>) -> Result<(), LearnError> {
        let mut refused = None;
        let read = Python::attach(|py| {
            for batch in self.iterable.bind(py).try_iter()? {
                let rows: Rows<'_> = batch?.extract()?;
                let set = training_set(rows, Some(self.names.clone()))?;
                if let Err(error) = py.detach(|| take(&set)) {
                    refused = Some(error);
                    break;
                }
            }
            Ok(())
        });
        self.raised = read.err();
        match (&self.raised, refused) {
            (Some(raised), _) => Err(LearnError::Source { what: raised.to_string() }),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }
}

/// Learns boosted trees of so many rows. Their bins lie in a file without a name in the folder `scratch`, or in memory where there is none.
#[pyfunction]
#[pyo3(signature = (learner, batches, names, rows, *, scratch=None, threads=None))]
pub fn fit_batches(
    py: Python<'_>,
    learner: &str,
    batches: Py<PyAny>,
    names: Vec<String>,
    rows: usize,
    scratch: Option<PathBuf>,
    threads: Option<usize>,
) -> PyResult<Model> {
    let mut told: serde_json::Value = serde_json::from_str(learner).map_err(value_error)?;
    told.as_object_mut().map(|told| told.remove("kind"));
    let parameters: Gbdt = serde_json::from_value(told).map_err(value_error)?;
    let room = gbdt::room(rows, names.len());
    let mut given = Given { iterable: batches, names, rows, raised: None };
    let fitted = py.detach(|| {
        let mut learn = |room: &mut [u8]| threads::run(threads, rows, || gbdt::fit_batches(&mut given, &parameters, room));
        match &scratch {
            None => learn(&mut vec![0; room]),
            Some(folder) => {
                let mut room =
                    mapped(folder, room).map_err(|error| PyOSError::new_err(format!("scratch {}: {error}", folder.display())))?;
                learn(&mut room)
            }
        }
    })?;
    match (fitted, given.raised) {
        (_, Some(raised)) => Err(raised),
        (fitted, None) => Ok(Model::new(py, Box::new(fitted.map_err(value_error)?))),
    }
}

/// A file of so many bytes, in memory as far as there is room for it.
fn mapped(folder: &Path, bytes: usize) -> io::Result<MmapMut> {
    let mut file: File = tempfile::tempfile_in(folder)?;
    // Written once: a disk without so much room says so now and not, by a signal that ends the process, when a page of it is used.
    io::copy(&mut io::Read::take(io::repeat(0), bytes as u64), &mut file)?;
    // SAFETY: the file has no name, so no one else changes it.
    unsafe { MmapMut::map_mut(&file) }
}
