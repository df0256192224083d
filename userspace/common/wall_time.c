// SPDX-License-Identifier: GPL-2.0-or-later
/* wall_time: see wall_time.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "wall_time.h"

#define YEAR_MAX 9999
#define SECONDS_MAX 253402300799u /* the end of that year; more are milliseconds, most likely */

/* Exactly @digits digits at *@at, which moves on. -1: they are not there. */
static int number(const char **at, unsigned digits)
{
	int value = 0;

	for (unsigned i = 0; i < digits; i++) {
		char c = (*at)[i];

		if (c < '0' || c > '9')
			return -1;
		value = value * 10 + (c - '0');
	}
	*at += digits;
	return value;
}

static bool take(const char **at, char c)
{
	if (**at != c)
		return false;
	(*at)++;
	return true;
}

/* Behind a decimal point: as many digits as there are, the first three count. -1: none. */
static int thousandths(const char **at)
{
	int value = 0, scale = 100;
	const char *from = *at;

	for (; **at >= '0' && **at <= '9'; (*at)++) {
		value += (**at - '0') * scale;
		scale /= 10;
	}
	return *at == from ? -1 : value;
}

static int parse_since(const char *at, uint64_t *ms)
{
	uint64_t seconds = 0;
	int part = 0;

	if (*at < '0' || *at > '9')
		return -EINVAL;
	for (; *at >= '0' && *at <= '9'; at++) {
		seconds = seconds * 10 + (uint64_t)(*at - '0');
		if (seconds > SECONDS_MAX)
			return -EINVAL;
	}
	if (take(&at, '.'))
		part = thousandths(&at);
	if (part < 0 || *at)
		return -EINVAL;
	*ms = seconds * 1000 + (uint64_t)part;
	return 0;
}

static bool same(const struct tm *a, const struct tm *b)
{
	return a->tm_year == b->tm_year && a->tm_mon == b->tm_mon && a->tm_mday == b->tm_mday &&
	       a->tm_hour == b->tm_hour && a->tm_min == b->tm_min && a->tm_sec == b->tm_sec;
}

/* The first moment at which a local clock shows @wanted. */
static int local(const struct tm *wanted, time_t *seconds)
{
	bool found = false;

	for (int summer = 0; summer <= 1; summer++) {
		struct tm asked = *wanted, shown;
		time_t at;

		asked.tm_isdst = summer;
		at = mktime(&asked);
		if (at == (time_t)-1 || !localtime_r(&at, &shown) || !same(&shown, wanted))
			continue;
		if (!found || at < *seconds)
			*seconds = at;
		found = true;
	}
	return found ? 0 : -EINVAL;
}

static int utc(const struct tm *wanted, int ahead_minutes, time_t *seconds)
{
	struct tm asked = *wanted;

	*seconds = timegm(&asked);
	if (!same(&asked, wanted))
		return -EINVAL; /* 30 February */
	*seconds -= (time_t)ahead_minutes * 60;
	return 0;
}

/* "Z", "+01:00", "-0330". false: something else. */
static bool parse_zone(const char **at, int *ahead_minutes)
{
	int hours, minutes, sign = **at == '-' ? -1 : 1;

	if (take(at, 'Z') || take(at, 'z')) {
		*ahead_minutes = 0;
		return true;
	}
	if (!take(at, '+') && !take(at, '-'))
		return false;
	hours = number(at, 2);
	take(at, ':');
	minutes = hours < 0 ? -1 : number(at, 2);
	*ahead_minutes = sign * (hours * 60 + minutes);
	return minutes >= 0 && minutes < 60 && hours < 24;
}

static bool parse_day(const char **at, struct tm *tm)
{
	int year = number(at, 4), month, day;

	if (year < 1970 || !take(at, '-') || (month = number(at, 2)) < 1 || month > 12 || !take(at, '-') ||
	    (day = number(at, 2)) < 1 || day > 31)
		return false;
	tm->tm_year = year - 1900;
	tm->tm_mon = month - 1;
	tm->tm_mday = day;
	return take(at, ' ') || take(at, 'T') || take(at, 't');
}

static bool parse_clock(const char **at, struct tm *tm, int *part)
{
	tm->tm_hour = number(at, 2);
	if (tm->tm_hour < 0 || tm->tm_hour > 23 || !take(at, ':'))
		return false;
	tm->tm_min = number(at, 2);
	if (tm->tm_min < 0 || tm->tm_min > 59)
		return false;
	if (!take(at, ':'))
		return true;
	tm->tm_sec = number(at, 2);
	if (tm->tm_sec < 0 || tm->tm_sec > 59)
		return false;
	if (take(at, '.'))
		*part = thousandths(at);
	return *part >= 0;
}

int wall_time_parse(const char *text, uint64_t now_ms, uint64_t *ms, bool *day)
{
	time_t now = (time_t)(now_ms / 1000), seconds;
	bool named = strlen(text) > 4 && text[4] == '-';
	int ahead_minutes = 0, part = 0, r;
	struct tm tm = { 0 }, today;
	const char *at = text;

	if (day)
		*day = named || text[0] == '@';
	if (take(&at, '@'))
		return parse_since(at, ms);
	if (named ? !parse_day(&at, &tm) : !localtime_r(&now, &today))
		return -EINVAL;
	if (!named) {
		tm.tm_year = today.tm_year;
		tm.tm_mon = today.tm_mon;
		tm.tm_mday = today.tm_mday;
	}
	if (!parse_clock(&at, &tm, &part))
		return -EINVAL;
	if (!*at) {
		r = local(&tm, &seconds);
	} else {
		/* A zone without a day would leave open whose today is meant. */
		if (!named || !parse_zone(&at, &ahead_minutes) || *at)
			return -EINVAL;
		r = utc(&tm, ahead_minutes, &seconds);
	}
	if (r || seconds < 0)
		return -EINVAL;
	*ms = (uint64_t)seconds * 1000 + (uint64_t)part;
	return 0;
}

static const char *text(uint64_t ms, const char *format, bool in_utc, char *out)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm;

	if (!(in_utc ? gmtime_r(&seconds, &tm) : localtime_r(&seconds, &tm)) || tm.tm_year + 1900 > YEAR_MAX ||
	    !strftime(out, WALL_TIME_BYTES, format, &tm))
		snprintf(out, WALL_TIME_BYTES, "@%llu", (unsigned long long)(ms / 1000));
	return out;
}

const char *wall_time_text(uint64_t ms, char out[WALL_TIME_BYTES])
{
	return text(ms, "%Y-%m-%d %H:%M:%S", false, out);
}

const char *wall_time_zone(uint64_t ms, char out[WALL_TIME_BYTES])
{
	return text(ms, "%Z (%z)", false, out);
}

const char *wall_time_rfc3339(uint64_t ms, char out[WALL_TIME_BYTES])
{
	char whole[WALL_TIME_BYTES];

	text(ms, "%Y-%m-%dT%H:%M:%S", true, whole);
	snprintf(out, WALL_TIME_BYTES, "%.24s.%03uZ", whole, (unsigned)(ms % 1000));
	return out;
}
