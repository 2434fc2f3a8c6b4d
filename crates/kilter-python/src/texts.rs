//! Texts as rows of numbers.

use kilter_learn::text::TextHasher;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use rayon::prelude::*;

use crate::{threads, value_error};

/// Texts that one task hashes.
const PIECE: usize = 256;

/// Hashes each text into a row, (texts, columns); `None` is a text without pieces. `hasher` is JSON, such as `{"columns": 128, "by": "characters"}`.
#[pyfunction]
#[pyo3(signature = (hasher, texts, *, threads=None))]
pub fn hash_texts<'py>(
    py: Python<'py>,
    hasher: &str,
    texts: Vec<Option<String>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let hasher: TextHasher = serde_json::from_str(hasher).map_err(value_error)?;
    hasher.check().map_err(value_error)?;
    let width = hasher.columns as usize;
    let mut out = vec![0.0; texts.len() * width];
    py.detach(|| {
        threads::run(threads, texts.len(), || {
            out.par_chunks_mut(PIECE * width).zip(texts.par_chunks(PIECE)).for_each(|(out, texts)| {
                let mut row = Vec::new();
                for (text, out) in texts.iter().zip(out.chunks_exact_mut(width)) {
                    hasher.row(text.as_deref().unwrap_or_default(), &mut row);
                    out.copy_from_slice(&row);
                }
            });
        })
    })?;
    PyArray1::from_vec(py, out).reshape([texts.len(), width])
}
