//! A headless Chromium, driven over its DevTools protocol.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::herdwire::{Herdwire, SOON, poll};
use crate::sessions::Session;

/// One browser with a profile of its own, in the test's folder.
pub struct Browser {
    child: Child,
    devtools: Session,
    last_id: u64,
}

/// One of its pages.
#[derive(Debug, Clone)]
pub struct Page {
    session: String,
}

impl Browser {
    /// Starts one; `None`, said on stderr, where Chromium is not installed.
    pub fn start(herdwire: &Herdwire) -> Option<Browser> {
        let profile = herdwire.work().join("profile");
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "about:blank"]);
        command.arg(format!("--user-data-dir={}", profile.display())).env("HOME", herdwire.work());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: chromium is not installed (apt-get install chromium)");
                return None;
            }
            Err(error) => panic!("chromium: {error}"),
        };
        let file = profile.join("DevToolsActivePort");
        let told = poll(SOON * 4, || {
            let told = fs::read_to_string(&file).ok()?;
            let (port, path) = told.split_once('\n')?;
            (!path.is_empty()).then(|| format!("ws://127.0.0.1:{port}{}", path.trim_end()))
        });
        let devtools = Session::open_url(&told.expect("chromium does not come up"), &[]).unwrap();
        Some(Browser { child, devtools, last_id: 0 })
    }

    /// Opens a page in a context of its own: another person's browser, as far as the page can tell.
    pub fn open(&mut self, url: &str) -> Page {
        let context = self.call(None, "Target.createBrowserContext", json!({}));
        let context = &context["browserContextId"];
        let target = self.call(None, "Target.createTarget", json!({ "url": url, "browserContextId": context }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attach);
        Page { session: attached["sessionId"].as_str().unwrap().to_owned() }
    }

    /// The value of an expression in a page; `null` while it cannot be evaluated.
    pub fn evaluate(&mut self, page: &Page, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        self.call(Some(page), "Runtime.evaluate", parameters)["result"]["value"].take()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn await_true(&mut self, page: &Page, expression: &str) {
        let holds = poll(SOON * 2, || (self.evaluate(page, expression) == true).then_some(()));
        holds.unwrap_or_else(|| {
            let shown = self.evaluate(page, "document.body.innerText");
            panic!("never true: {expression}; the page shows: {shown}")
        });
    }

    /// Types text into an element, as a keyboard does, and presses Enter.
    pub fn type_into(&mut self, page: &Page, selector: &str, text: &str) {
        self.evaluate(page, &format!("document.querySelector({selector:?}).focus()"));
        self.call(Some(page), "Input.insertText", json!({ "text": text }));
        for kind in ["keyDown", "keyUp"] {
            let key =
                json!({ "type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13 });
            self.call(Some(page), "Input.dispatchKeyEvent", key);
        }
    }

    fn call(&mut self, page: Option<&Page>, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut call = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(page) = page {
            call["sessionId"] = page.session.as_str().into();
        }
        self.devtools.says(&call.to_string());
        loop {
            let said = self.devtools.next().expect("chromium has ended");
            let mut said: Value = serde_json::from_str(&said).unwrap();
            // Everything else is an event.
            if said["id"] == self.last_id {
                assert!(said.get("error").is_none(), "{method}: {said}");
                return said["result"].take();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
