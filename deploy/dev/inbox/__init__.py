"""The demo inbox: an SMTP server that keeps every mail and shows it, and misbehaves when told to.

For the demo and for tests; no service uses it. It listens on 127.0.0.1 only and passes no mail on.

    python -m deploy.dev.inbox --smtp-port 2525 --http-port 8025 --directory .kip/inbox

| ask | to |
| --- | --- |
| `GET /` | see the mails in a browser |
| `GET /api/health` | know that it is up, and its ports |
| `GET /api/messages?to=&after=&before=&limit=` | list mails, newest first; `after` and `before` are ids |
| `GET /api/messages/{id}`, `…/{id}/raw` | read one mail, decoded or byte for byte |
| `DELETE /api/messages` | forget all mails; ids go on counting |
| `GET /api/wait?to=&after=&timeout_s=` | wait for the oldest mail after an id; 204 when none came |
| `GET, PUT, DELETE /api/behaviour` | read, set, remove the rules of misbehaviour |
| `GET /api/stats` | count connections and mails, and each fault by stage |

Reading order: `mailbox.py` (what is kept), `mail_files.py` (where), `reading.py` (what a person reads of it),
`behaviour.py` (what goes wrong on purpose), `stats.py` (what is counted), `smtp_sink.py` and `http_api.py` (the two
doors), `page.html`, `__main__.py` (how they are joined). `client.py` is for other programs.
"""
