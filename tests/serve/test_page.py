"""The chat page in a real browser: asked, answered, stopped; mouse and keyboard, two widths."""

import re
import shutil
import time
from contextlib import contextmanager

import pytest

from perfxlm_core.serve.page import files

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SHORT = {"temperature": "0", "max_tokens": "24"}


def test_the_files_name_each_other_and_nothing_else():
    text = "\n".join(f.body.decode() for f in files().values())
    named = set(re.findall(r'"(?:\./|page/)([\w.]+)"', text))
    assert {f"/page/{name}" for name in named} | {"/"} == set(files())
    outside = re.findall(r"(?:https?:)?//[\w.]+\.\w+", text)
    assert set(outside) == {"http://www.w3.org"}  # the name of SVG's namespace
    assert "innerHTML" not in text
    assert sum(len(f.body) for f in files().values()) < 40_000


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return found


def test_an_unchanged_file_is_not_sent_again(server):
    first = server.http.get("/page/page.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert "default-src 'none'" in first.headers["content-security-policy"]
    again = server.http.get("/page/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@contextmanager
def browser(size="desktop"):
    if not (BROWSER and DRIVER):
        pytest.skip("no browser: apt install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        width, height = SIZES[size]
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"},
        )
        yield driver
    finally:
        driver.quit()


class Page:
    """What a user does with the page and sees of it."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        wait_for(lambda: self["model"].text or self["model"].get_attribute("title"))

    def __getitem__(self, name):
        return self.driver.find_element("id", name)

    def set(self, **fields):
        if not self["settings"].is_displayed():
            self["settings-button"].click()
        for name, value in fields.items():
            self[name].clear()
            self[name].send_keys(value)
        self["settings-button"].click()

    def ask(self, question):
        self["question"].send_keys(question)
        self["send"].click()

    def answers(self):
        return self.driver.find_elements("css selector", "article.assistant")

    def text(self):
        return self.answers()[-1].find_element("class name", "body").text

    def footer(self):
        return self.answers()[-1].find_element("tag name", "footer").text

    def running(self):
        return self["stop"].is_displayed()

    def answered(self):
        wait_for(lambda: self.answers() and not self.running())
        return self.text()

    def complaints(self):
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture(scope="module", params=list(SIZES))
def page(request, server):
    with browser(request.param) as driver:
        yield Page(driver, server.url)


@pytest.fixture
def new(page):
    page["new"].click()
    page.set(**dict.fromkeys(("system", "temperature", "max_tokens", "top_p"), ""))
    return page


def test_an_answer_streams_and_the_load_is_shown(new):
    new.set(temperature="0", max_tokens="60")
    new.ask("Count from one to twenty in words.")
    seen = set()
    while new.running():
        seen.add(new.text())
    final = new.answered()
    growing = sorted(seen - {""}, key=len)
    assert len(growing) > 3
    assert all(final.startswith(text.rstrip()) for text in growing)
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s", new.footer())
    wait_for(lambda: re.fullmatch(r"[\d.]+ %", new["kv"].text))
    wait_for(lambda: (new["running"].text, new["waiting"].text) == ("0", "0"))
    assert new.complaints() == []


def test_the_conversation_goes_on_until_a_new_one(new, server):
    def prompt_tokens(question):
        before = server.metric("vllm:prompt_tokens_total")
        new.ask(question)
        new.answered()
        return server.metric("vllm:prompt_tokens_total") - before

    new.set(**SHORT)
    first, second = prompt_tokens("My name is Ada."), prompt_tokens("My name is Ada.")
    assert second > first
    new["new"].click()
    assert new.answers() == []
    assert prompt_tokens("My name is Ada.") == first
    new["new"].click()
    new.set(system="Answer like a pirate. " * 10)
    assert prompt_tokens("My name is Ada.") > first


def test_stop_ends_the_answer_here_and_on_the_server(new, server):
    new.set(temperature="0", max_tokens="1500")
    new.ask("Write a very long story about the sea.")
    wait_for(lambda: len(new.text()) > 20)
    new["stop"].click()
    text = new.answered()
    assert new.footer().endswith("stopped")
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 5)
    assert new.text() == text
    assert len(text) < 4000


def test_a_new_chat_ends_the_answer_under_way(new, server):
    new.set(temperature="0", max_tokens="1500")
    new.ask("Write a very long story about the sea.")
    wait_for(lambda: len(new.text()) > 20)
    new["new"].click()
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 5)
    assert new.answers() == []
    assert new["question"].get_attribute("value") == ""


def test_the_keyboard_is_enough(new):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        ActionChains(new.driver).send_keys(*keys).perform()

    new.set(temperature="0", max_tokens="1500")
    new["question"].click()
    press("Tell me a very long story,")
    ActionChains(new.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    press("about the sea.", Keys.ENTER)
    asked = new.driver.find_element("css selector", "article.user .body")
    assert asked.text == "Tell me a very long story,\nabout the sea."
    wait_for(lambda: len(new.text()) > 20)
    press(Keys.ESCAPE)
    new.answered()
    assert new.footer().endswith("stopped")
    assert new.driver.switch_to.active_element == new["question"]
    reached = set()
    for _ in range(20):
        press(Keys.TAB)
        reached.add(new.driver.switch_to.active_element.get_attribute("id"))
    assert {"settings-button", "new", "theme", "talk", "question", "send"} <= reached


def test_a_refusal_is_shown_and_the_question_given_back(new):
    new.set(top_p="7")
    new.ask("Hello!")
    wait_for(lambda: new.answers() and not new.running())
    assert "top_p" in new.footer() or "top_p" in new.answers()[-1].text
    assert new["question"].get_attribute("value") == "Hello!"
    new["question"].clear()


def test_light_and_dark(new):
    def paper():
        script = "return getComputedStyle(document.body).backgroundColor"
        return new.driver.execute_script(script)

    before = paper()
    new["theme"].click()
    assert paper() != before
    new["theme"].click()
    assert paper() == before


def test_nothing_is_wider_than_the_window(new):
    new.set(**SHORT)
    new.ask("word" * 200 + "\n```\n" + "code " * 100 + "\n```")
    new.answered()
    new["settings-button"].click()
    script = """return [...document.querySelectorAll('button, input, textarea, dd, article')]
        .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())
        .filter(r => r.left < 0 || r.right > innerWidth + 1).length"""
    assert new.driver.execute_script(script) == 0
    width = "return document.scrollingElement.scrollWidth - innerWidth"
    assert new.driver.execute_script(width) <= 0
    new["settings-button"].click()
    foreign = """return performance.getEntriesByType('resource').map(e => e.name)
        .filter(name => new URL(name).origin !== location.origin)"""
    assert new.driver.execute_script(foreign) == []
