//! The chat herd of `examples/chat` in a real browser.

use std::net::SocketAddr;
use std::path::Path;

use crate::chromium::{Browser, Page};
use crate::herdwire::Herdwire;

/// Starts `examples/chat` as it is, but for the port.
fn start_chat(herdwire: &Herdwire) -> SocketAddr {
    let chat = Path::new(env!("CARGO_BIN_EXE_herdwire")).with_file_name("chat");
    assert!(chat.exists(), "{} is missing: `cargo build --workspace` makes it", chat.display());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chat");
    let config = std::fs::read_to_string(example.join("herdwire.toml")).unwrap();
    let public = example.join("public").display().to_string();
    let config = config
        .replace("listen = \"127.0.0.1:8080\"", "listen = \"127.0.0.1:0\"")
        .replace("files = \"public\"", &format!("files = {public:?}"))
        .replace("script = \"chat\"", &format!("script = {:?}", chat.display().to_string()));
    herdwire.write("herdwire.toml", &config);
    herdwire.ok(&["start"]);
    herdwire.snapshot()["front"]["address"].as_str().expect("a front").parse().unwrap()
}

/// Opens the chat and has the page count how often its state leaves `connected`.
fn join(browser: &mut Browser, address: SocketAddr) -> Page {
    let page = browser.open(&format!("http://{address}/"));
    browser.await_true(&page, "document.querySelector('#state')?.dataset.state === 'connected'");
    let watch = "window.left = 0; new MutationObserver(() => { \
                 if (document.querySelector('#state').dataset.state !== 'connected') window.left += 1; \
                 }).observe(document.querySelector('#state'), { attributes: true, childList: true })";
    browser.evaluate(&page, watch);
    page
}

fn says(browser: &mut Browser, page: &Page, text: &str) {
    browser.type_into(page, "#text", text);
}

#[track_caller]
fn sees(browser: &mut Browser, page: &Page, text: &str) {
    let shown = format!("[...document.querySelectorAll('.line .said')].some(said => said.textContent === {text:?})");
    browser.await_true(page, &shown);
}

#[test]
fn two_pages_chat_and_stay_connected_across_a_restart_of_the_workers() {
    let herdwire = Herdwire::new();
    let address = start_chat(&herdwire);
    let Some(mut browser) = Browser::start(&herdwire) else { return };
    let pages = [join(&mut browser, address), join(&mut browser, address)];

    says(&mut browser, &pages[0], "hello from the first");
    sees(&mut browser, &pages[1], "hello from the first");
    sees(&mut browser, &pages[0], "hello from the first");
    let before: Vec<u32> = herdwire.instances("chat").iter().map(|instance| instance.pid).collect();

    herdwire.ok(&["restart", "chat"]);
    let after: Vec<u32> = herdwire.instances("chat").iter().map(|instance| instance.pid).collect();
    assert!(before.len() == 4 && before.iter().all(|pid| !after.contains(pid)));

    says(&mut browser, &pages[1], "and back after the restart");
    sees(&mut browser, &pages[0], "and back after the restart");
    for page in &pages {
        assert_eq!(browser.evaluate(page, "window.left"), 0, "a page lost its connection");
        assert_eq!(browser.evaluate(page, "document.querySelector('#state').dataset.state"), "connected");
    }
    assert_eq!(herdwire.snapshot()["front"]["sessions"], 2);
}
