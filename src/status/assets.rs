//! The page's own files, compiled in. They are the same for everybody and tell nothing about the host.

/// One file.
#[derive(Debug)]
pub struct Asset {
    pub name: &'static str,
    pub content_type: &'static str,
    pub content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The page, which loads the others.
pub const PAGE: Asset = Asset { name: "page.html", content_type: HTML, content: include_str!("assets/page.html") };

/// Everything under `/assets/`.
pub const ASSETS: [Asset; 6] = [
    Asset { name: "page.css", content_type: CSS, content: include_str!("assets/page.css") },
    Asset { name: "page.js", content_type: SCRIPT, content: include_str!("assets/page.js") },
    Asset { name: "view.js", content_type: SCRIPT, content: include_str!("assets/view.js") },
    Asset { name: "dom.js", content_type: SCRIPT, content: include_str!("assets/dom.js") },
    Asset { name: "figures.js", content_type: SCRIPT, content: include_str!("assets/figures.js") },
    Asset { name: "mark.svg", content_type: SVG, content: include_str!("assets/mark.svg") },
];

/// The file of that name.
pub fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of apps, channels and hosts are other people's text: they become text nodes and attributes, never markup.
    #[test]
    fn no_script_makes_markup_or_code_out_of_text() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type == SCRIPT) {
            for door in
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "DOMParser"]
            {
                assert!(!asset.content.contains(door), "{} uses {door}", asset.name);
            }
        }
    }

    #[test]
    fn the_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere() {
        for tag in PAGE.content.split('<').filter(|tag| tag.starts_with("script") || tag.starts_with("link")) {
            assert!(tag.contains("src=\"/assets/") || tag.contains("href=\"/assets/"), "<{tag}");
        }
        let lower = PAGE.content.to_ascii_lowercase();
        for inline in ["<style", "style=", " onclick", " onload", "javascript:", "//cdn", "https://"] {
            assert!(!lower.contains(inline), "{inline}");
        }
    }

    #[test]
    fn every_file_that_the_page_or_a_script_names_exists() {
        for content in ASSETS.iter().chain([&PAGE]).map(|asset| asset.content) {
            for (at, prefix) in content.match_indices("/assets/").chain(content.match_indices("from \"./")) {
                let name = content[at + prefix.len()..].split('"').next().unwrap();
                assert!(find(name).is_some(), "{name}");
            }
        }
    }
}
