//! `MLmodel`: which programs a logged model is for, and what each needs to know.

use std::collections::BTreeMap;

use super::yaml::Yaml;

/// The flavours of a model by name, each with its fields that are plain texts or numbers.
///
/// # Errors
/// Why the text is no `MLmodel`.
pub fn flavors(mlmodel: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let said = Yaml::read(mlmodel)?;
    let Some(Yaml::Map(flavors)) = said.get("flavors") else { return Err("it names no flavors".into()) };
    let fields = |of: &Yaml| {
        let Yaml::Map(fields) = of else { return BTreeMap::new() };
        fields.keys().filter_map(|key| Some((key.clone(), of.maybe(key)?))).collect()
    };
    Ok(flavors.iter().map(|(name, of)| (name.clone(), fields(of))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavors_have_their_fields() {
        let text = "flavors:\n  lightgbm:\n    code: null\n    data: model.lgb\n    lgb_version: 4.6.0\n  python_function:\n    env:\n      conda: c\n";
        let found = flavors(text).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["lightgbm", "python_function"]);
        assert_eq!((found["lightgbm"]["data"].as_str(), found["lightgbm"].get("code")), ("model.lgb", None));
        for bad in ["", "flavors: 3", "a: [", "- flavors"] {
            assert!(flavors(bad).is_err(), "{bad}");
        }
    }
}
