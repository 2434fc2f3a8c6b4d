//! Page tokens: a position, bound to the query it belongs to.

use crate::error::{Error, Result};

/// What a token is good for: one search with one filter and order.
pub(crate) struct Pages {
    of: u64,
}

impl Pages {
    /// `parts` is everything that decides which rows come in which order.
    pub fn of(parts: &[&str]) -> Pages {
        let mut hash = blake3::Hasher::new();
        for part in parts {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Pages { of: u64::from_le_bytes(hash.finalize().as_bytes()[..8].try_into().unwrap_or_default()) }
    }

    /// The position that a token stands for; without one, the start.
    pub fn position(&self, token: Option<&str>) -> Result<i64> {
        let Some(token) = token.filter(|t| !t.is_empty()) else { return Ok(0) };
        let read = |text: &str| u64::from_str_radix(text, 16).ok();
        let parts = token.split_once('-').and_then(|(at, of)| Some((i64::try_from(read(at)?).ok()?, read(of)?)));
        match parts {
            Some((at, of)) if of == self.of => Ok(at),
            Some(_) => Err(Error::invalid("Invalid page token: it belongs to another query")),
            None => Err(Error::invalid("Invalid page token")),
        }
    }

    /// The token for what comes at `position`.
    pub fn token(&self, position: i64) -> String {
        format!("{position:x}-{:016x}", self.of)
    }

    /// Cuts what was read one row too far, so that it is known whether there is more.
    pub fn cut<T>(&self, mut rows: Vec<T>, from: i64, limit: usize) -> crate::model::Page<T> {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = more.then(|| self.token(from + rows.len() as i64));
        crate::model::Page { items: rows, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_query_only() {
        let (a, b) = (Pages::of(&["ab", "c"]), Pages::of(&["a", "bc"]));
        assert_eq!(a.position(Some(&a.token(70))).unwrap(), 70);
        assert_eq!((a.position(None).unwrap(), a.position(Some("")).unwrap()), (0, 0));
        for bad in [b.token(70).as_str(), "!!", "-", "1", "1-", "-1-0", "ffffffffffffffff-0", "é-1"] {
            assert!(a.position(Some(bad)).is_err(), "{bad}");
        }
    }
}
