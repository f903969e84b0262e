//! What was asked for on the command line: `--name value` pairs.

/// The pairs.
pub(crate) struct Words(Vec<(String, String)>);

impl Words {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut words = words;
        let mut parsed = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("expected an option, not {word}"))?;
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            parsed.push((name.to_owned(), value));
        }
        Ok(Self(parsed))
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str, String> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str()).ok_or_else(|| format!("--{name} is missing"))
    }

    pub(crate) fn get<T: std::str::FromStr>(&self, name: &str) -> Result<T, String> {
        self.text(name)?.parse().map_err(|_| format!("--{name}: not valid"))
    }

    pub(crate) fn or<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        if self.0.iter().any(|(n, _)| n == name) { self.get(name) } else { Ok(default) }
    }
}
