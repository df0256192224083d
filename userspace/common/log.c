/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log: messages on stderr, for the journal or for people; kept in memory while held.
 * Called by every program, from any thread. While held nothing is written and nothing is
 * allocated: the memory for it is static.
 *
 * What stderr is decides the form:
 *
 *	the journal	<4>message
 *	a terminal	program: warning: message
 *	anything else	2026-01-31T03:00:00.000Z program: warning: message
 */
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HOLD_MAX 256u
#define LINE_MAX_BYTES 1024u

enum log_form { FORM_FILE, FORM_TERMINAL, FORM_JOURNAL };

struct held {
	enum log_level level;
	struct timespec when;
	char text[LINE_MAX_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* All below: under lock. */
static char program_name[64] = "reprotect";
static enum log_level level_max = LOG_LEVEL_INFO;
static enum log_form form = FORM_TERMINAL;
static bool holding;
static struct held held[HOLD_MAX];
static uint64_t held_count; /* since log_hold(); the newest HOLD_MAX of them are kept */

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARNING:
		return "warning";
	case LOG_LEVEL_NOTICE:
		return "notice";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "?";
}

static enum log_form find_form(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat status;

	if (stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	    !fstat(STDERR_FILENO, &status) && status.st_dev == device && status.st_ino == inode)
		return FORM_JOURNAL;
	return isatty(STDERR_FILENO) ? FORM_TERMINAL : FORM_FILE;
}

/**
 * log_init - say who is talking
 * @program: name for messages
 * @max: messages above this level are dropped
 */
void log_init(const char *program, enum log_level max)
{
	pthread_mutex_lock(&lock);
	snprintf(program_name, sizeof(program_name), "%s", program);
	level_max = max;
	form = find_form();
	pthread_mutex_unlock(&lock);
}

/* One write() a message, so that lines of several threads or programs do not mix. */
static void put(enum log_level level, const struct timespec *when, const char *text)
{
	char line[LINE_MAX_BYTES + 160];
	size_t length = 0;
	struct tm utc;
	char stamp[32];
	int bytes;

	switch (form) {
	case FORM_JOURNAL:
		bytes = snprintf(line, sizeof(line), "<%d>%s\n", (int)level, text);
		break;
	case FORM_TERMINAL:
		bytes = snprintf(line, sizeof(line), "%s: %s: %s\n", program_name,
				 level_name(level), text);
		break;
	case FORM_FILE:
	default:
		gmtime_r(&when->tv_sec, &utc);
		strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
		bytes = snprintf(line, sizeof(line), "%s.%03ldZ %s: %s: %s\n", stamp,
				 when->tv_nsec / 1000000, program_name, level_name(level), text);
		break;
	}
	if (bytes < 0)
		return;
	length = (size_t)bytes < sizeof(line) ? (size_t)bytes : sizeof(line) - 1;
	for (size_t done = 0; done < length;) {
		ssize_t wrote = write(STDERR_FILENO, line + done, length - done);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return; /* nowhere to complain to */
		done += (size_t)wrote;
	}
}

/* A message is one line, whatever a peer or a file name put into it. */
static void flatten(char *text)
{
	for (; *text; text++) {
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = ' ';
	}
}

/**
 * log_message - write a message; errno is kept
 * @level: how bad
 * @format: what failed, on which object, why, what to do; cut to 1023 bytes
 */
void log_message(enum log_level level, const char *format, ...)
{
	char text[LINE_MAX_BYTES];
	struct timespec when;
	int saved = errno;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	flatten(text);
	clock_gettime(CLOCK_REALTIME, &when);

	pthread_mutex_lock(&lock);
	if (level > level_max) {
		/* not wanted */
	} else if (holding) {
		struct held *slot = &held[held_count++ % HOLD_MAX];

		slot->level = level;
		slot->when = when;
		memcpy(slot->text, text, sizeof(text));
	} else {
		put(level, &when, text);
	}
	pthread_mutex_unlock(&lock);
	errno = saved;
}

/** log_hold - keep messages in memory from now on */
void log_hold(void)
{
	pthread_mutex_lock(&lock);
	holding = true;
	pthread_mutex_unlock(&lock);
}

/** log_flush - write what was held, and write at once from now on */
void log_flush(void)
{
	uint64_t at;

	pthread_mutex_lock(&lock);
	at = held_count > HOLD_MAX ? held_count - HOLD_MAX : 0;
	if (at) {
		char text[96];

		snprintf(text, sizeof(text),
			 "%llu older messages were dropped while the log was held",
			 (unsigned long long)at);
		put(LOG_LEVEL_WARNING, &held[at % HOLD_MAX].when, text);
	}
	for (; at < held_count; at++) {
		const struct held *slot = &held[at % HOLD_MAX];

		put(slot->level, &slot->when, slot->text);
	}
	held_count = 0;
	holding = false;
	pthread_mutex_unlock(&lock);
}
