/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nlmsg.h - netlink messages put together byte by byte, for the tools that send
 * what a library would not: wrong lengths, types, nests, at a given moment.
 * Everything is static: each tool is one file and this.
 */
#ifndef NLMSG_H
#define NLMSG_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/blkcbt.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>

/* NLA_ALIGN and friends are signed. */
#define ALIGN4(n) (((size_t)(n) + 3) & ~(size_t)3)

/**
 * struct nlmsg - a message that grows at its end
 * @len: bytes of @b in use; past NLMSG_MAX nothing more is added
 */
struct nlmsg {
	size_t len;
	union {
		struct nlmsghdr hdr;
		unsigned char b[1 << 17];
	};
};

#define NLMSG_MAX (sizeof(((struct nlmsg *)0)->b) - 256)

struct nlsock {
	int fd;
	uint32_t seq;
};

/* What came with the last answer of nl_ask(). */
static unsigned char nl_payload[1 << 16];
static size_t nl_payload_len;
static char nl_text[300];

static int nl_family;
static unsigned int nl_group;

static inline void nl_die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

static inline void nl_append(struct nlmsg *m, const void *data, size_t len)
{
	size_t padded = ALIGN4(len);

	if (m->len + padded > NLMSG_MAX)
		return;
	memset(m->b + m->len, 0, padded);
	if (len)
		memcpy(m->b + m->len, data, len);
	m->len += padded;
}

static inline void nl_begin(struct nlmsg *m, int family, int cmd, int flags)
{
	struct genlmsghdr g = { .cmd = (uint8_t)cmd, .version = BLKCBT_GENL_VERSION };
	struct nlmsghdr h = { .nlmsg_type = (uint16_t)family,
			      .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) };

	m->len = 0;
	nl_append(m, &h, sizeof(h));
	nl_append(m, &g, sizeof(g));
	m->hdr.nlmsg_len = (uint32_t)m->len;
}

/* An attribute with flags in its type. */
static inline void nl_put(struct nlmsg *m, unsigned int type, const void *data, size_t len)
{
	struct nlattr a = { .nla_type = (uint16_t)type,
			    .nla_len = (uint16_t)(len + sizeof(struct nlattr)) };

	nl_append(m, &a, sizeof(a));
	nl_append(m, data, len);
	m->hdr.nlmsg_len = (uint32_t)m->len;
}

static inline void nl_put_u32(struct nlmsg *m, unsigned int type, uint32_t n)
{
	nl_put(m, type, &n, sizeof(n));
}

static inline void nl_put_u64(struct nlmsg *m, unsigned int type, uint64_t n)
{
	nl_put(m, type, &n, sizeof(n));
}

static inline void nl_put_dev(struct nlmsg *m, dev_t dev)
{
	nl_put_u32(m, BLKCBT_A_MAJOR, major(dev));
	nl_put_u32(m, BLKCBT_A_MINOR, minor(dev));
}

/* Where the nest starts, for nl_nest_end(). */
static inline size_t nl_nest(struct nlmsg *m, unsigned int type)
{
	size_t at = m->len;

	nl_put(m, type, NULL, 0);
	return at;
}

static inline void nl_nest_end(struct nlmsg *m, size_t at)
{
	uint16_t len = (uint16_t)(m->len - at);

	memcpy(m->b + at, &len, sizeof(len));
}

static inline void nl_put_disk(struct nlmsg *m, dev_t dev)
{
	size_t nest = nl_nest(m, BLKCBT_A_DISK | NLA_F_NESTED);

	nl_put_dev(m, dev);
	nl_nest_end(m, nest);
}

static inline struct nlsock nl_open(void)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	struct nlsock s = { .fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC) };
	int one = 1;

	if (s.fd < 0 || connect(s.fd, (struct sockaddr *)&to, sizeof(to)))
		nl_die("netlink socket");
	setsockopt(s.fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	setsockopt(s.fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	setsockopt(s.fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	return s;
}

static inline void nl_attrs(const unsigned char *at, size_t len,
			    void (*each)(unsigned int type, const void *data, size_t len, void *arg),
			    void *arg)
{
	struct nlattr a;

	while (len >= sizeof(a)) {
		memcpy(&a, at, sizeof(a));
		if (a.nla_len < sizeof(a) || a.nla_len > len)
			return;
		each(a.nla_type & NLA_TYPE_MASK, at + sizeof(a), a.nla_len - sizeof(a), arg);
		if (ALIGN4(a.nla_len) >= len)
			return;
		at += ALIGN4(a.nla_len);
		len -= ALIGN4(a.nla_len);
	}
}

static inline void nl_note_text(unsigned int type, const void *data, size_t len, void *arg)
{
	(void)arg;
	if (type == NLMSGERR_ATTR_MSG)
		snprintf(nl_text, sizeof(nl_text), "%.*s", (int)len, (const char *)data);
}

/**
 * nl_answer() - wait for the answer to the last message sent
 * @s: the socket
 *
 * Data that comes before is in nl_payload (from behind the genetlink header on),
 * the kernel's text on an error in nl_text.
 *
 * Return: 0, the errno that the kernel answered, or -errno of receiving.
 */
static inline int nl_answer(struct nlsock *s)
{
	static unsigned char in[1 << 17];

	nl_payload_len = 0;
	nl_text[0] = '\0';
	for (;;) {
		ssize_t n = recv(s->fd, in, sizeof(in), 0);
		size_t at = 0;

		if (n < 0)
			return -errno;
		while (at + sizeof(struct nlmsghdr) <= (size_t)n) {
			struct nlmsghdr *h = (struct nlmsghdr *)(void *)(in + at);
			unsigned char *body = (unsigned char *)h + NLMSG_HDRLEN;

			at += ALIGN4(h->nlmsg_len);
			if (h->nlmsg_len < NLMSG_HDRLEN || h->nlmsg_seq != s->seq)
				continue;
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			if (h->nlmsg_type == NLMSG_ERROR) {
				struct nlmsgerr e;

				memcpy(&e, body, sizeof(e));
				if ((h->nlmsg_flags & NLM_F_ACK_TLVS) &&
				    h->nlmsg_len > NLMSG_HDRLEN + sizeof(e))
					nl_attrs(body + sizeof(e),
						 h->nlmsg_len - NLMSG_HDRLEN - sizeof(e),
						 nl_note_text, NULL);
				return -e.error;
			}
			if (h->nlmsg_len < NLMSG_HDRLEN + GENL_HDRLEN)
				continue;
			nl_payload_len = h->nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
			if (nl_payload_len > sizeof(nl_payload))
				nl_payload_len = sizeof(nl_payload);
			memcpy(nl_payload, body + GENL_HDRLEN, nl_payload_len);
		}
	}
}

/**
 * nl_ask() - send a message that asks for an acknowledgment, wait for the answer
 * @s: the socket
 * @m: the message
 *
 * Return: 0, the errno that the kernel answered, or -errno of sending or receiving.
 */
static inline int nl_ask(struct nlsock *s, struct nlmsg *m)
{
	m->hdr.nlmsg_seq = ++s->seq;
	if (send(s->fd, m->b, m->len, 0) < 0)
		return -errno;
	return nl_answer(s);
}

static inline void nl_note_group(unsigned int type, const void *data, size_t len, void *arg)
{
	(void)arg;
	if (type == CTRL_ATTR_MCAST_GRP_ID && len == sizeof(nl_group))
		memcpy(&nl_group, data, len);
}

static inline void nl_note_nested(unsigned int type, const void *data, size_t len, void *arg)
{
	(void)type;
	nl_attrs(data, len, nl_note_group, arg);
}

static inline void nl_note_family(unsigned int type, const void *data, size_t len, void *arg)
{
	uint16_t id;

	if (type == CTRL_ATTR_FAMILY_ID && len == sizeof(id)) {
		memcpy(&id, data, len);
		nl_family = id;
	} else if (type == CTRL_ATTR_MCAST_GROUPS) {
		nl_attrs(data, len, nl_note_nested, arg);
	}
}

/* Fills in nl_family and nl_group; false: the module is not loaded. */
static inline bool nl_resolve(struct nlsock *s, struct nlmsg *m)
{
	nl_begin(m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK);
	nl_put(m, CTRL_ATTR_FAMILY_NAME, BLKCBT_GENL_NAME, sizeof(BLKCBT_GENL_NAME));
	nl_family = 0;
	if (!nl_ask(s, m))
		nl_attrs(nl_payload, nl_payload_len, nl_note_family, NULL);
	return nl_family != 0;
}

static inline dev_t nl_dev_of(const char *path)
{
	struct stat st;

	if (stat(path, &st) || !S_ISBLK(st.st_mode)) {
		fprintf(stderr, "%s: not a block device\n", path);
		exit(2);
	}
	return st.st_rdev;
}

/* Numbers that depend on nothing but the seed: xorshift64*. */
static inline uint64_t nl_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

static inline uint64_t nl_seed(uint64_t seed, unsigned int process)
{
	uint64_t state = (seed + 1) * 0x9e3779b97f4a7c15ull + process * 0xd1b54a32d192ed03ull;

	if (!state)
		state = 1;
	for (int i = 0; i < 8; i++)
		nl_random(&state);
	return state;
}

#endif
