//! Reading the configuration's layers, and refusing with one line that names the file or the
//! variable, the key, what was found and what is allowed.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use super::{
    BUILT_IN,
    keys::{self, HTTP, Key, Rule},
    types::{CodeSender, Config, UserProvider},
};
use crate::limits::BEFORE_SEND_TIMEOUT_MAX;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "im.toml";
/// How the name of every variable begins.
const PREFIX: &str = "IM_";
/// What the built-in layer is called in messages.
const BUILT_IN_NAME: &str = "the built-in defaults";

/// Why a configuration is refused, in one line without secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// A valid configuration and where it came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a configuration came from; shown as `im.toml, IM_LOG__LEVEL`.
#[derive(Debug)]
pub struct Origin {
    /// The file that was read; `None`: only the built-in defaults.
    pub file: Option<PathBuf>,
    /// The environment variables that set keys, in the order of the keys.
    pub variables: Vec<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}", file.display())?,
            None => f.write_str(BUILT_IN_NAME)?,
        }
        for variable in &self.variables {
            write!(f, ", {variable}")?;
        }
        Ok(())
    }
}

/// Loads the configuration: the built-in defaults, the file `named` or else `im.toml` in the
/// working folder if it is there, and the environment of the process.
///
/// # Errors
/// [`Invalid`] where a file that was named cannot be read, a key is unknown, or a value is not
/// allowed.
pub fn load(named: Option<&Path>) -> Result<Loaded, Invalid> {
    load_from(named, Path::new(DEFAULT_FILE), env::vars_os())
}

impl Default for Config {
    /// The built-in configuration, untouched by files and environment.
    #[allow(clippy::expect_used)]
    fn default() -> Self {
        merge(&[built_in()])
            .and_then(|figment| figment.extract().map_err(|error| unexpected(&error)))
            .expect("the built-in file is valid, as a test shows")
    }
}

fn load_from(
    named: Option<&Path>,
    default_file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Invalid> {
    let (file, text) = read_file(named, default_file)?;
    let mut layers = vec![built_in()];
    if let (Some(path), Some(text)) = (&file, &text) {
        layers.push(file_layer(path, text)?);
    }
    let variables = environment_layers(environment)?;
    let names = variables.iter().map(|layer| layer.name.clone()).collect();
    layers.extend(variables);
    let figment = merge(&layers)?;
    let config: Config = figment.extract().map_err(|error| unexpected(&error))?;
    check_relations(&config, &figment)?;
    Ok(Loaded {
        config,
        origin: Origin {
            file,
            variables: names,
        },
    })
}

/// Reads the named file, which must exist, or the default one, which need not.
fn read_file(
    named: Option<&Path>,
    default_file: &Path,
) -> Result<(Option<PathBuf>, Option<String>), Invalid> {
    let path = named.unwrap_or(default_file);
    match fs::read_to_string(path) {
        Ok(text) => Ok((Some(path.to_owned()), Some(text))),
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Ok((None, None)),
        Err(error) => Err(Invalid(format!(
            "{}: the configuration file cannot be read: {}",
            path.display(),
            plain(&error)
        ))),
    }
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

/// One source of values.
struct Layer {
    /// The file or the variable, as messages name it.
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// Puts the layers on top of each other, refusing values that are not allowed.
fn merge(layers: &[Layer]) -> Result<Figment, Invalid> {
    layers.iter().try_fold(Figment::new(), |merged, layer| {
        check_layer(layer)?;
        Ok(merged.merge(layer))
    })
}

#[allow(clippy::expect_used)]
fn built_in() -> Layer {
    Layer {
        name: BUILT_IN_NAME.to_owned(),
        values: Toml::from_str(BUILT_IN).expect("the built-in file is TOML, as a test shows"),
    }
}

fn file_layer(path: &Path, text: &str) -> Result<Layer, Invalid> {
    let name = path.display().to_string();
    match Toml::from_str(text) {
        Ok(values) => Ok(Layer { name, values }),
        // The error's own text quotes the line, which may bear a secret.
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            let why = error.message().replace('\n', ", ");
            Err(Invalid(match key_on(text, line) {
                Some(key) => format!(
                    "{name}: line {line}: {}: {why}, allowed: {}",
                    key.path(),
                    key.rule.allowed()
                ),
                None => format!("{name}: line {line}: {why}"),
            }))
        }
    }
}

/// The key that a line of a file gives a value to, if it is one.
fn key_on(text: &str, line: usize) -> Option<&'static Key> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let (name, _) = lines.last()?.split_once('=')?;
    let section = lines.iter().rev().find_map(|line| {
        let inner = line.trim().strip_prefix('[')?;
        Some(inner.split_once(']')?.0.trim())
    })?;
    keys::find(section, name.trim())
}

fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// One layer per variable, so that a refusal names the variable.
fn environment_layers(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Layer>, Invalid> {
    let mut set: Map<String, OsString> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|n| n.contains("__")))
        .collect();
    let mut layers = Vec::new();
    for key in keys::KEYS {
        let variable = key.variable();
        if let Some(value) = set.remove(&variable) {
            layers.push(variable_layer(key, variable, value)?);
        }
    }
    match set.into_keys().next() {
        Some(unknown) => Err(unknown_variable(&unknown)),
        None => Ok(layers),
    }
}

fn variable_layer(key: &Key, variable: String, value: OsString) -> Result<Layer, Invalid> {
    let text = value.into_string().map_err(|_| {
        Invalid(format!(
            "{variable}: {}: found bytes that are not UTF-8, allowed: {}",
            key.path(),
            key.rule.allowed()
        ))
    })?;
    let section = Dict::from([(key.name.to_owned(), key.rule.parse(text))]);
    Ok(Layer {
        name: variable,
        values: Dict::from([(key.section.to_owned(), Value::from(section))]),
    })
}

/// Says what a variable that names no key may have meant.
fn unknown_variable(name: &str) -> Invalid {
    let upper = name.to_uppercase();
    let section = upper.find("__").map_or("", |end| &upper[..end + 2]);
    let variables: Vec<String> = keys::KEYS.iter().map(Key::variable).collect();
    let in_section: Vec<&str> = variables
        .iter()
        .map(String::as_str)
        .filter(|variable| variable.starts_with(section))
        .collect();
    let allowed = if variables.contains(&upper) {
        upper
    } else if in_section.is_empty() {
        format!(
            "IM_<SECTION>__<KEY> with a section of {}",
            keys::sections().join(", ").to_uppercase()
        )
    } else {
        in_section.join(", ")
    };
    Invalid(format!("{name}: names no key, allowed: {allowed}"))
}

fn check_layer(layer: &Layer) -> Result<(), Invalid> {
    for (section, values) in &layer.values {
        let names = keys::names(section);
        if names.is_empty() {
            return Err(Invalid(format!(
                "{}: {section}: no such section, allowed: {}",
                layer.name,
                keys::sections().join(", ")
            )));
        }
        let Some(values) = values.as_dict() else {
            return Err(Invalid(format!(
                "{}: {section}: found {}, allowed: a section, [{section}]",
                layer.name,
                keys::kind(values)
            )));
        };
        for (name, value) in values {
            check_value(layer, section, name, value)?;
        }
    }
    Ok(())
}

fn check_value(layer: &Layer, section: &str, name: &str, value: &Value) -> Result<(), Invalid> {
    let Some(key) = keys::find(section, name) else {
        return Err(Invalid(format!(
            "{}: {section}.{name}: no such key, allowed in [{section}]: {}",
            layer.name,
            keys::names(section).join(", ")
        )));
    };
    key.rule
        .check(value)
        .map_err(|found| refuse(&layer.name, &key.path(), &found, &key.rule.allowed()))
}

fn refuse(source: &str, path: &str, found: &str, allowed: &str) -> Invalid {
    Invalid(format!(
        "{source}: {path}: found {found}, allowed: {allowed}"
    ))
}

/// Serde's refusal of values that the keys' rules let through; it may quote one, so only the key
/// is told.
fn unexpected(error: &Error) -> Invalid {
    Invalid(format!(
        "{}: a value that is not understood",
        error.path.join(".")
    ))
}

/// The few rules that need two keys.
fn check_relations(config: &Config, figment: &Figment) -> Result<(), Invalid> {
    let internal = config.listen.internal;
    if !internal.ip().to_canonical().is_loopback() && config.internal.token.is_empty() {
        return Err(refuse(
            source_of(figment, ["listen.internal", "internal.token"]),
            "listen.internal",
            &format!("{internal} without internal.token"),
            "a loopback address, or any address once internal.token is set",
        ));
    }
    if config.users.provider == UserProvider::Remote && config.users.endpoint.is_empty() {
        return Err(refuse(
            source_of(figment, ["users.endpoint", "users.provider"]),
            "users.endpoint",
            "\"\" where users.provider is \"remote\"",
            &Rule::Url(HTTP).allowed(),
        ));
    }
    if config.users.provider == UserProvider::Jwt {
        check_jwt_keys(config, figment)?;
    }
    if config.sign_in.code_sender == CodeSender::Webhook && config.sign_in.webhook_url.is_empty() {
        return Err(refuse(
            source_of(figment, ["sign_in.webhook_url", "sign_in.code_sender"]),
            "sign_in.webhook_url",
            "\"\" where sign_in.code_sender is \"webhook\"",
            &Rule::Url(HTTP).allowed(),
        ));
    }
    check_hooks(config, figment)
}

fn check_hooks(config: &Config, figment: &Figment) -> Result<(), Invalid> {
    let timeout_max = BEFORE_SEND_TIMEOUT_MAX.as_millis() as u64;
    let before_send = &config.before_send;
    if !before_send.url.is_empty() && before_send.timeout_ms > timeout_max {
        return Err(refuse(
            source_of(figment, ["before_send.timeout_ms", "before_send.url"]),
            "before_send.timeout_ms",
            &before_send.timeout_ms.to_string(),
            &format!("a whole number from 1 to {timeout_max}"),
        ));
    }
    let posts = [
        ("webhooks.url", &config.webhooks.url),
        ("before_send.url", &config.before_send.url),
    ];
    for (key, url) in posts {
        if !url.is_empty() && config.webhooks.secret.is_empty() {
            return Err(refuse(
                source_of(figment, ["webhooks.secret", key]),
                "webhooks.secret",
                &format!("\"\" where {key} is set"),
                "whsec_ and 24 to 64 bytes in base64",
            ));
        }
    }
    Ok(())
}

fn check_jwt_keys(config: &Config, figment: &Figment) -> Result<(), Invalid> {
    let jwt = &config.jwt;
    let sources = [&jwt.secret, &jwt.public_key, &jwt.jwks_url];
    let set = sources.iter().filter(|source| !source.is_empty()).count();
    if set == 1 {
        return Ok(());
    }
    Err(refuse(
        source_of(figment, ["jwt.secret", "users.provider"]),
        "jwt.secret, jwt.public_key, jwt.jwks_url",
        &format!("{set} of them set where users.provider is \"jwt\""),
        "exactly one of them",
    ))
}

/// Who set the first of these keys that is not as built in.
fn source_of<'a>(figment: &'a Figment, paths: [&str; 2]) -> &'a str {
    paths
        .into_iter()
        .filter_map(|path| figment.find_metadata(path))
        .map(|metadata| &*metadata.name)
        .find(|name| *name != BUILT_IN_NAME)
        .unwrap_or(BUILT_IN_NAME)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
