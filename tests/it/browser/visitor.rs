//! Somebody at the dashboard, with a real Chromium: presses, types, reads.
//!
//! Controls are found as people find them, by the words on them or beside them, and only where they
//! can be seen; while a dialog is open, only in it. Everything waits for what it looks for.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use thirtyfour::{LoggingPrefsLogLevel, common::capabilities::desiredcapabilities::DesiredCapabilities, prelude::*};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{backend::server, eventually::eventually, process::Process};

/// Browsers at once: each takes a core while it starts.
static SEATS: Semaphore = Semaphore::const_new(2);

/// Longest run of one script in the page.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Finds a control: by the words on it, for a label by those beside it.
const FIND: &str = "
    const [kind, name] = arguments;
    const root = document.querySelector('dialog[open]') ?? document;
    const words = (node) => (node?.getAttribute('aria-label') ?? node?.textContent ?? '').trim();
    const seen = (node) => node.checkVisibility();
    if (kind === 'field') {
        const label = [...root.querySelectorAll('label')].find((label) => words(label) === name);
        const labelled = [...root.querySelectorAll('input, select, textarea')].find((field) => words(field) === name);
        return label ? document.getElementById(label.htmlFor) : labelled ?? null;
    }
    return [...root.querySelectorAll('button, a, summary')].find((node) => words(node) === name && seen(node)) ?? null;";

/// See the module.
pub struct Visitor {
    pub driver: WebDriver,
    base: String,
    downloads: tempfile::TempDir,
    _chromedriver: Process,
    _seat: SemaphorePermit<'static>,
}

/// Starts a chromedriver; returns its port as well. It takes a port that is free for IPv6 and gives up where
/// somebody has that one for IPv4: another try draws another port.
async fn start(program: &str) -> (Process, String) {
    for _ in 0..5 {
        let mut chromedriver = Process::start(Command::new(program).arg("--port=0"));
        let said = chromedriver.says_one_of(&["successfully on port", "port not available"]).await;
        if let Some((_, rest)) = said.split_once("successfully on port ") {
            return (chromedriver, rest.chars().take_while(char::is_ascii_digit).collect());
        }
    }
    panic!("chromedriver found no port in five tries");
}

impl Visitor {
    /// Opens a browser, as wide as a desk's, and the page at `base`; `None` where there is no browser.
    pub async fn at(base: &str) -> Option<Visitor> {
        let chromedriver = server("TEST_CHROMEDRIVER")?;
        let seat = SEATS.acquire().await.unwrap();
        let (chromedriver, port) = start(&chromedriver).await;
        let downloads = tempfile::tempdir().unwrap();
        let mut wanted = DesiredCapabilities::chrome();
        for flag in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--lang=en-GB",
            // The browser ends with whoever drives it.
            "--remote-debugging-pipe",
        ] {
            wanted.add_arg(flag).unwrap();
        }
        wanted.set_logging_prefs("browser", LoggingPrefsLogLevel::All).unwrap();
        wanted.set_logging_prefs("performance", LoggingPrefsLogLevel::All).unwrap();
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.unwrap();
        driver.set_script_timeout(SCRIPT_TIMEOUT).await.unwrap();
        let visitor = Visitor { driver, base: base.to_owned(), downloads, _chromedriver: chromedriver, _seat: seat };
        visitor.looks_at_width(1280).await;
        visitor.prefers("prefers-color-scheme", "light").await;
        let permissions = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
        visitor.tells("Browser.grantPermissions", permissions).await;
        let folder = visitor.downloads.path().to_string_lossy().into_owned();
        visitor.tells("Browser.setDownloadBehavior", json!({ "behavior": "allow", "downloadPath": folder })).await;
        visitor.goes("").await;
        Some(visitor)
    }

    /// Opens an address of the page, such as `#/tasks`.
    pub async fn goes(&self, hash: &str) {
        self.driver.goto(format!("{}/{hash}", self.base)).await.unwrap();
    }

    /// Tells the browser something that people cannot.
    pub async fn tells(&self, method: &str, parameters: Value) {
        self.driver.cdp().send_raw(method, parameters).await.unwrap();
    }

    /// A window of that many pixels.
    pub async fn looks_at_width(&self, width: u32) {
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.tells("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// A preference of the system, such as `prefers-color-scheme`.
    pub async fn prefers(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.tells("Emulation.setEmulatedMedia", features).await;
    }

    /// Presses a button or follows a link.
    pub async fn presses(&self, name: &str) {
        eventually(&format!("a button or link {name:?} to press"), async || {
            let found = self.find("button", name).await?;
            found.click().await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Replaces what a field says.
    pub async fn fills(&self, label: &str, text: &str) {
        eventually(&format!("a field {label:?} to fill"), async || {
            let field = self.find("field", label).await?;
            field.clear().await.map_err(|error| error.to_string())?;
            field.send_keys(text).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Chooses from a list.
    pub async fn chooses(&self, label: &str, option: &str) {
        eventually(&format!("{option:?} in the list {label:?}"), async || {
            let list = self.find("field", label).await?;
            let options = list.find_all(By::Tag("option")).await.map_err(|error| error.to_string())?;
            for one in options {
                if one.text().await.unwrap_or_default() == option {
                    return one.click().await.map_err(|error| error.to_string());
                }
            }
            Err("no such option".to_owned())
        })
        .await;
    }

    /// Waits until the page says that.
    pub async fn sees(&self, words: &str) {
        eventually(&format!("the page to say {words:?}"), async || {
            let said = self.reads().await;
            if said.contains(words) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Waits until the page says that no more.
    pub async fn sees_no_more(&self, words: &str) {
        eventually(&format!("the page no longer to say {words:?}"), async || {
            let said = self.reads().await;
            if said.contains(words) { Err(said) } else { Ok(()) }
        })
        .await;
    }

    /// All that can be read on the page now.
    pub async fn reads(&self) -> String {
        self.finds_out("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// The value of a script in the page.
    pub async fn finds_out(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// What is in the clipboard.
    pub async fn pastes(&self) -> String {
        let read = "const [done] = arguments; navigator.clipboard.readText().then(done, (error) => done(`${error}`));";
        self.driver.execute_async(read, Vec::new()).await.unwrap().json().as_str().unwrap().to_owned()
    }

    /// A file that the page offered, when it is there as a whole: its name and text. An empty one only keeps its
    /// place: the browser makes it just before it moves there what it has received.
    pub async fn receives(&self, ending: &str) -> (String, String) {
        eventually(&format!("a file *{ending}"), async || {
            let files = std::fs::read_dir(self.downloads.path()).unwrap().map(|file| file.unwrap().path());
            let mut files = files.filter(|file| file.to_string_lossy().ends_with(ending));
            let file = files.next().ok_or("none yet")?;
            let text = std::fs::read_to_string(&file).map_err(|_| "not readable yet")?;
            if text.is_empty() {
                return Err("only its place");
            }
            Ok((file.file_name().unwrap().to_string_lossy().into_owned(), text))
        })
        .await
    }

    /// Types where the focus is.
    pub async fn types(&self, keys: &str) {
        self.driver.action_chain().send_keys(keys).perform().await.unwrap();
    }

    /// Moves the focus on, once.
    pub async fn tabs(&self) {
        self.types(&Key::Tab.value().to_string()).await;
    }

    /// The words on or beside what has the focus.
    pub async fn focus(&self) -> String {
        let asked = self
            .finds_out(
                "const node = document.activeElement;
                 const label = node.labels?.[0]?.textContent;
                 return (node.getAttribute('aria-label') ?? label ?? node.textContent).trim();",
            )
            .await;
        asked.as_str().unwrap_or_default().to_owned()
    }

    /// Closes the browser. All the while the page said no error to the console, and asked nobody but
    /// the service for anything.
    pub async fn leaves(self) {
        self.leaves_after(&[]).await;
    }

    /// The same, after refusals that a test brought about: part of what the console says of each.
    pub async fn leaves_after(self, refusals: &[&str]) {
        let log = self.driver.get_log("browser").await.unwrap();
        let errors: Vec<String> = log
            .into_iter()
            .filter(|entry| matches!(entry.level.as_str(), "SEVERE" | "WARNING"))
            .map(|entry| entry.message)
            .filter(|message| !refusals.iter().any(|part| message.contains(part)))
            .collect();
        assert!(errors.is_empty(), "the console said: {errors:#?}");
        let asked = self.addresses().await;
        let foreign: Vec<&String> = asked.iter().filter(|url| !self.is_own(url)).collect();
        assert!(!asked.is_empty() && foreign.is_empty(), "the page asked others: {foreign:#?}");
        self.driver.quit().await.unwrap();
    }

    fn is_own(&self, url: &str) -> bool {
        let own = [self.base.as_str(), "blob:", "data:", "about:", "chrome:"];
        own.iter().any(|own| url.starts_with(own))
    }

    /// Every address that was asked for anything.
    async fn addresses(&self) -> Vec<String> {
        let events = self.driver.get_log("performance").await.unwrap();
        let events = events.iter().filter_map(|entry| serde_json::from_str::<Value>(&entry.message).ok());
        let sent = events.filter(|event| event["message"]["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| Some(event["message"]["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }

    async fn find(&self, kind: &str, name: &str) -> Result<WebElement, String> {
        let found =
            self.driver.execute(FIND, vec![json!(kind), json!(name)]).await.map_err(|error| error.to_string())?;
        if found.json().is_null() {
            return Err(format!("not there; the page says:\n{}", self.reads().await));
        }
        found.element().map_err(|error| error.to_string())
    }
}
