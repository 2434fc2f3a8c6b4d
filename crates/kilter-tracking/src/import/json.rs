//! JSON as Python's `json.dumps` writes it, which is none where a number is not one.

use serde_json::Value;

/// None for what is no JSON. `NaN`, `Infinity` and `-Infinity` become these words as texts, as protobuf writes them in JSON.
pub(super) fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&quoted(text)?).ok())
}

/// The same with these words in quotes; none where there are none.
fn quoted(text: &str) -> Option<String> {
    let (mut out, mut rest, mut is_text, mut found) = (String::new(), text, false, false);
    while let Some(first) = rest.chars().next() {
        let word = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| !is_text && rest.starts_with(word));
        let taken = match (word, first) {
            (Some(word), _) => {
                found = true;
                out.extend(["\"", word, "\""]);
                word.len()
            }
            (None, '\\') if is_text => {
                let taken = rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at);
                out.push_str(&rest[..taken]);
                taken
            }
            (None, first) => {
                is_text ^= first == '"';
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_number_is_a_word_and_texts_stay_as_they_are() {
        let text = r#"{"a": [NaN, -Infinity, Infinity, -1], "b": "say \"NaN\\", "NaN": {"ä": NaN}}"#;
        let read = read(text).unwrap();
        assert_eq!(read, json!({"a": ["NaN", "-Infinity", "Infinity", -1], "b": "say \"NaN\\", "NaN": {"ä": "NaN"}}));
    }

    #[test]
    fn what_is_no_json_is_none() {
        for bad in ["", "{", "nan", "NaNa", "{\"a\": NaN", "-NaN", "\"NaN\\"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
