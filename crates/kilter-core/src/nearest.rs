//! "Did you mean": the nearest of the valid names.

/// The valid name closest to `name`, if one is close enough to be a likely slip of the fingers.
pub fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    valid
        .into_iter()
        .map(|v| (strsim::damerau_levenshtein(&lower, &v.to_lowercase()), v))
        .filter(|(distance, v)| *distance <= 1 + v.len().max(name.len()) / 4)
        .min_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(b.1)))
        .map(|(_, v)| v)
}

/// Names joined for a hint, cut after a dozen.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.len().min(12);
    let mut text = names[..shown].join(", ");
    if names.len() > shown {
        text.push_str(&format!(" and {} more", names.len() - shown));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_mended_and_strangers_are_not() {
        let valid = ["amount", "balance", "account_id"];
        assert_eq!(nearest("amuont", valid), Some("amount"));
        assert_eq!(nearest("Account_ID", valid), Some("account_id"));
        assert_eq!(nearest("colour", valid), None);
    }
}
