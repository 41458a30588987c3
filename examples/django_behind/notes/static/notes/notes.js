"use strict";

const base = location.origin.replace(/^http/, "ws");

function count() {
  const socket = new WebSocket(`${base}/ws/notes`);
  const shown = document.getElementById("count");
  socket.onmessage = event => { shown.textContent = JSON.parse(event.data).notes; };
  socket.onclose = () => { shown.textContent = "?"; setTimeout(count, 2000); };
}

count();

const form = document.getElementById("echo");
let echo = null;

form.onsubmit = event => {
  event.preventDefault();
  const text = form.text.value;
  if (echo !== null && echo.readyState === WebSocket.OPEN) {
    echo.send(text);
    return;
  }
  echo = new WebSocket(`${base}/ws/echo`);
  echo.onopen = () => echo.send(text);
  echo.onmessage = each => { form.querySelector("output").textContent = each.data; };
};
