"""
Django's settings, with what it has to know behind a proxy.

The database, uploads and the secret key lie in ``data``, which only this user may enter.
"""

import secrets
from pathlib import Path

FOLDER = Path(__file__).parent.parent
DATA = FOLDER / "data"
DATA.mkdir(mode=0o700, exist_ok=True)


def read_secret() -> str:
    """Return the key that signs cookies; it is made once."""
    path = DATA / "secret_key"
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(50))
    return path.read_text()


SECRET_KEY = read_secret()
DEBUG = False

# -- Behind Kyoukai ----------------------------------------------------------------------------

# Kyoukai keeps the Host that the browser sent, so Django sees its own public names, and neither
# USE_X_FORWARDED_HOST nor CSRF_TRUSTED_ORIGINS is needed.
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

# The scheme of the browser. This is safe because nobody but Kyoukai can reach this process, and
# Kyoukai replaces what a browser says of X-Forwarded-Proto.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# The example answers without TLS, too. Where everything is https, say so:
# SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True

# -- A plain project ---------------------------------------------------------------------------

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "notes",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "db.sqlite3",
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
]
LOGIN_URL = "admin:login"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
MEDIA_ROOT = DATA / "media"
