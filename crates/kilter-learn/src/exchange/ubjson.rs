//! Universal Binary JSON as XGBoost writes it, read into JSON values: big-endian numbers, counted and typed arrays.

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read; XGBoost's own files have eight levels.
const DEEPEST: usize = 64;

/// The value that the bytes are; else the byte at which they are none, and why.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, (usize, String)> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.marker().and_then(|marker| reader.value(marker, 0));
    match value {
        Ok(value) if reader.at == bytes.len() => Ok(value),
        Ok(_) => Err((reader.at, format!("{} bytes too many at the end", bytes.len() - reader.at))),
        Err(what) => Err((reader.at, what)),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken =
            rest.get(..count).ok_or_else(|| format!("the file ends here; {count} more bytes are expected, {} are left", rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// The next byte that is no filler.
    fn marker(&mut self) -> Read<u8> {
        loop {
            let [marker] = self.array()?;
            if marker != b'N' {
                return Ok(marker);
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn length(&mut self) -> Read<usize> {
        let marker = self.marker()?;
        let length = self.whole(marker)?.ok_or_else(|| format!("a length is expected, not `{}`", marker.escape_ascii()))?;
        usize::try_from(length).map_err(|_| format!("a length of {length}"))
    }

    fn whole(&mut self, marker: u8) -> Read<Option<i64>> {
        Ok(Some(match marker {
            b'i' => i64::from(i8::from_be_bytes(self.array()?)),
            b'U' => i64::from(u8::from_be_bytes(self.array()?)),
            b'I' => i64::from(i16::from_be_bytes(self.array()?)),
            b'l' => i64::from(i32::from_be_bytes(self.array()?)),
            b'L' => i64::from_be_bytes(self.array()?),
            _ => return Ok(None),
        }))
    }

    fn text(&mut self) -> Read<String> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is no UTF-8".to_string())
    }

    fn value(&mut self, marker: u8, depth: usize) -> Read<Value> {
        if depth > DEEPEST {
            return Err(format!("more than {DEEPEST} levels"));
        }
        // What is no number in JSON (NaN, infinite) becomes null, which no reader takes for one.
        let float = |value: f64| Number::from_f64(value).map_or(Value::Null, Value::Number);
        if let Some(whole) = self.whole(marker)? {
            return Ok(whole.into());
        }
        Ok(match marker {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'd' => float(f64::from(f32::from_be_bytes(self.array()?))),
            b'D' => float(f64::from_be_bytes(self.array()?)),
            b'C' => Value::String(char::from(self.array::<1>()?[0]).to_string()),
            b'S' => Value::String(self.text()?),
            b'[' => {
                let mut items = Vec::new();
                self.items(b']', |reader, marker| {
                    let marker = marker.map_or_else(|| reader.marker(), Ok)?;
                    items.push(reader.value(marker, depth + 1)?);
                    Ok(())
                })?;
                Value::Array(items)
            }
            b'{' => {
                let mut members = Map::new();
                self.items(b'}', |reader, marker| {
                    let name = reader.text()?;
                    let marker = marker.map_or_else(|| reader.marker(), Ok)?;
                    members.insert(name, reader.value(marker, depth + 1)?);
                    Ok(())
                })?;
                Value::Object(members)
            }
            other => return Err(format!("`{}` begins no value", other.escape_ascii())),
        })
    }

    /// Reads what lies between brackets: up to the closing one, or as many items as are announced, of the type that is announced.
    fn items(&mut self, end: u8, mut item: impl FnMut(&mut Self, Option<u8>) -> Read<()>) -> Read<()> {
        let marker = match self.peek() {
            Some(b'$') => {
                self.at += 1;
                let [marker] = self.array()?;
                // Items without a byte of their own would let a short file ask for any amount of memory.
                if matches!(marker, b'Z' | b'T' | b'F' | b'N') {
                    return Err(format!("an array of `{}` only", marker.escape_ascii()));
                }
                Some(marker)
            }
            _ => None,
        };
        if self.peek() == Some(b'#') {
            self.at += 1;
            let count = self.length()?;
            if count > self.bytes.len() - self.at {
                return Err(format!("{count} items are announced, {} bytes are left", self.bytes.len() - self.at));
            }
            return (0..count).try_for_each(|_| item(self, marker));
        }
        if marker.is_some() {
            return Err("a type without a count".into());
        }
        loop {
            match self.peek() {
                Some(b'N') => self.at += 1,
                Some(next) if next == end => {
                    self.at += 1;
                    return Ok(());
                }
                _ => item(self, None)?,
            }
        }
    }
}
