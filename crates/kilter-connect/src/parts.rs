//! Parquet files of numbered byte strings: what another system stores for Kilter without looking into it.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use crate::codecs::parquet::{guarded, not_parquet};
use crate::error::ConnectError;

/// The rows of a file with an int32 column `pass` and a binary column `part`.
///
/// # Errors
/// A file that cannot be read or has other columns; of the iterator, after which it is over, damage.
pub fn parts(path: &Path) -> Result<impl Iterator<Item = Result<(i32, Vec<u8>), ConnectError>> + use<>, ConnectError> {
    let what = path.display().to_string();
    let file = File::open(path).map_err(|e| ConnectError::new("unreadable_file", format!("{what} cannot be opened: {e}")))?;
    let rows = guarded(|| SerializedFileReader::new(file).map(SerializedFileReader::into_iter)).map_err(|e| not_parquet(&what, &e))?;
    Ok(Parts { rows: Some(rows), what })
}

struct Parts {
    rows: Option<RowIter<'static>>,
    what: String,
}

impl Iterator for Parts {
    type Item = Result<(i32, Vec<u8>), ConnectError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        let read = guarded(|| rows.next().transpose()).map_err(|e| not_parquet(&self.what, &e));
        let part = read.and_then(|row| row.map(|row| part(&row, &self.what)).transpose());
        if !matches!(part, Ok(Some(_))) {
            self.rows = None;
        }
        part.transpose()
    }
}

fn part(row: &Row, what: &str) -> Result<(i32, Vec<u8>), ConnectError> {
    let (mut pass, mut part) = (None, None);
    for (name, value) in row.get_column_iter() {
        match (name.as_str(), value) {
            ("pass", Field::Int(number)) => pass = Some(*number),
            ("part", Field::Bytes(bytes)) => part = Some(bytes.data().to_vec()),
            _ => {}
        }
    }
    pass.zip(part).ok_or_else(|| {
        let problem = ConnectError::new("wrong_format", format!("{what} has no columns `pass` (int32) and `part` (binary)"));
        problem.hint("it holds no parts of a state")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_parts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        std::fs::write(&path, b"PAR1 and nothing of the kind PAR1").unwrap();
        assert_eq!(parts(&path).err().unwrap().code, "not_parquet");
        assert_eq!(parts(&dir.path().join("gone")).err().unwrap().code, "unreadable_file");

        let columns = kilter_core::Schema::new([("pass", kilter_core::DataType::Int64)]);
        let mut table = crate::TableWriter::create(File::create(&path).unwrap(), crate::TableFormat::Parquet, &columns, &[]).unwrap();
        table.push(&[kilter_core::Value::Int(1)]).unwrap();
        table.finish().unwrap();
        let read: Vec<_> = parts(&path).unwrap().collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].as_ref().err().unwrap().code, "wrong_format");
    }
}
