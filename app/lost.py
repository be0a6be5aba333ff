"""What a page does when its server is gone: it says so, and loads itself anew when there is a server again."""

WORDS = (
    "The explorer's server does not answer. A search goes on without it, and is found again. "
    "Start `dit-accel app` again: this page then loads itself anew."
)
EVERY_MS = 3000

HEAD = f"""
<script>
(() => {{
  const where = new URL('gradio_api/app_id', location.origin + location.pathname);
  let known = null, misses = 0;
  const banner = () => document.getElementById('lost');
  const say = () => {{
    if (banner()) return;
    const box = document.createElement('div');
    box.id = 'lost';
    box.setAttribute('role', 'alert');
    box.textContent = {WORDS!r};
    document.body.prepend(box);
  }};
  setInterval(async () => {{
    try {{
      const answer = await fetch(where, {{cache: 'no-store'}});
      if (!answer.ok) throw new Error(answer.status);
      const found = JSON.stringify(await answer.json());
      misses = 0;
      if (known !== null && known !== found) location.reload();
      known = found;
      if (banner()) banner().remove();
    }} catch (error) {{
      misses += 1;
      if (misses > 1) say();
    }}
  }}, {EVERY_MS});
}})();
</script>
"""
"""Of a server only its identity is asked for; the browser asks nobody else."""
