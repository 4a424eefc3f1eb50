// SPDX-License-Identifier: GPL-2.0
/*
 * The state of a VM, saved and taken up by another VM of the same layout: what was
 * sealed stays so, counters go on, and a state that is not whole is refused whole.
 */
#include "kvm_test_harness.h"
#include "heki.h"

#define SEALED		0
#define OTHER		1
#define CODE		2
#define MSR_VALUE	0xffffffff81234000ull
#define MAX_BYTES	65536
#define NO_VCPU		77

FIXTURE(state) {
	struct heki_vm from;
	struct heki_vm to;
	u8 bytes[MAX_BYTES];
	u64 len;
};

FIXTURE_SETUP(state)
{
	heki_vm_create(&self->from, 1);
	heki_vm_create(&self->to, 1);
}

FIXTURE_TEARDOWN(state)
{
	heki_vm_free(&self->from);
	heki_vm_free(&self->to);
}

static int get_buffer(struct heki_vm *h, struct heki_buffer *buffer)
{
	return __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE, buffer) ?
	       errno : 0;
}

static int set_buffer(struct heki_vm *h, struct heki_buffer *buffer)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE, buffer) ?
	       errno : 0;
}

static u64 get_state(struct heki_vm *h, u8 *bytes)
{
	struct heki_buffer buffer = { .data = (u64)bytes, .len = MAX_BYTES };
	int ret = get_buffer(h, &buffer);

	TEST_ASSERT(!ret, "No state: %s", strerror(ret));
	return buffer.len;
}

static int set_state(struct heki_vm *h, const u8 *bytes, u64 len)
{
	return set_buffer(h, &(struct heki_buffer){ .data = (u64)bytes, .len = len });
}

/* The content of the record of @kind, NULL if there is none. */
static void *record(u8 *bytes, u32 kind, u64 *len)
{
	struct heki_saved *header = (void *)bytes;
	struct heki_record *rec = (void *)(header + 1);
	u32 i;

	for (i = 0; i < header->nr_records; i++) {
		if (rec->kind == kind) {
			*len = rec->len;
			return rec + 1;
		}
		rec = (void *)(rec + 1) + rec->len;
	}
	return NULL;
}

static struct heki_record *header_of(u8 *bytes, u32 kind)
{
	u64 len;
	struct heki_record *content = record(bytes, kind, &len);

	TEST_ASSERT(content, "No record %u", kind);
	return content - 1;
}

static struct heki_seal *seal_of(u8 *bytes)
{
	return (void *)(header_of(bytes, HEKI_RECORD_SEAL) + 1);
}

static struct heki_counters *counters_of(u8 *bytes)
{
	return (void *)(header_of(bytes, HEKI_RECORD_COUNTERS) + 1);
}

static u64 *values_of(u8 *bytes)
{
	return (void *)(header_of(bytes, HEKI_RECORD_VALUES) + 1);
}

static bool is_open(struct heki_vm *h)
{
	struct heki_query q = heki_query(h);

	return q.state == HEKI_STATE_OPEN && !q.held;
}

/* Two pages that do not touch, and two pins. */
static void seal_much(struct heki_vm *h)
{
	struct heki_seal *req;

	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	TEST_ASSERT(!heki_call(h->vcpu[0], guest_wrmsr, MSR_LSTAR, MSR_VALUE), "No LSTAR");
	req = heki_begin_request(h, 0);
	heki_add_page(req, SEALED);
	heki_add_page(req, SEALED + 2);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_add_msr(req, MSR_LSTAR, ~0ull);
	heki_seal(h);
}

HEKI_TEST(state, is_sized_by_query)
{
	struct heki_buffer buffer = {};
	struct heki_saved *header = (void *)self->bytes;
	u64 len;
	u32 kind;

	seal_much(&self->from);
	EXPECT_EQ(0, get_buffer(&self->from, &buffer));
	len = buffer.len;
	EXPECT_LT(sizeof(struct heki_saved), len);

	memset(self->bytes, 0xa5, MAX_BYTES);
	buffer = (struct heki_buffer){ .data = (u64)self->bytes, .len = len - 1 };
	EXPECT_EQ(E2BIG, get_buffer(&self->from, &buffer));
	EXPECT_EQ(len, buffer.len);
	EXPECT_EQ(0xa5, self->bytes[0]);

	EXPECT_EQ(0, get_buffer(&self->from, &buffer));
	EXPECT_EQ(len, buffer.len);
	EXPECT_EQ(0xa5, self->bytes[len]);
	EXPECT_EQ(HEKI_SAVED_MAGIC, header->magic);
	EXPECT_EQ(HEKI_SAVED_VERSION, header->version);
	EXPECT_EQ(len, header->len);
	for (kind = HEKI_RECORD_LIFE; kind <= HEKI_RECORD_COUNTERS; kind++)
		EXPECT_NE(NULL, record(self->bytes, kind, &len));
}

HEKI_TEST(state, of_an_open_vm_leaves_it_open)
{
	struct heki_vm *to = &self->to;
	u64 len;

	EXPECT_TRUE(is_open(&self->from));
	self->len = get_state(&self->from, self->bytes);
	EXPECT_EQ(NULL, record(self->bytes, HEKI_RECORD_SEAL, &len));
	EXPECT_EQ(0, set_state(to, self->bytes, self->len));
	EXPECT_EQ(1, vcpu_get_stat(to->vcpu[0], heki_query));
	EXPECT_TRUE(is_open(to));
	heki_seal_page(to, SEALED);
	EXPECT_TRUE(heki_is_sealed(to, to->vcpu[0], SEALED));
}

HEKI_TEST(state, denied_writes_stay_denied)
{
	struct heki_vm *from = &self->from, *to = &self->to;

	EXPECT_TRUE(heki_is_writable(from, from->vcpu[0], SEALED));
	seal_much(from);
	EXPECT_TRUE(heki_is_sealed(from, from->vcpu[0], SEALED));
	self->len = get_state(from, self->bytes);

	EXPECT_EQ(0, set_state(to, self->bytes, self->len));
	EXPECT_EQ(1, vcpu_get_stat(to->vcpu[0], heki_seal));
	EXPECT_EQ(1, vcpu_get_stat(to->vcpu[0], heki_denied_write));
	EXPECT_TRUE(heki_is_sealed(to, to->vcpu[0], SEALED));
	EXPECT_TRUE(heki_is_sealed(to, to->vcpu[0], SEALED + 2));
	EXPECT_TRUE(heki_is_writable(to, to->vcpu[0], OTHER));
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(to).state);
	EXPECT_EQ(heki_query(from).held, heki_query(to).held);
	EXPECT_EQ(3, vcpu_get_stat(to->vcpu[0], heki_denied_write));

	heki_add_page(heki_begin_request(to, 0), OTHER);
	EXPECT_EQ(-KVM_EPERM, heki_send(to, to->vcpu[0]));
}

static u64 guest_clear_wp(u64 *arg)
{
	return guest_set_cr0((u64[]){ get_cr0() & ~X86_CR0_WP });
}

HEKI_TEST(state, pins_are_held)
{
	struct heki_vm *from = &self->from, *to = &self->to;
	struct kvm_vcpu *vcpu = to->vcpu[0];

	EXPECT_EQ(0, heki_call(from->vcpu[0], guest_wrmsr, MSR_LSTAR, 0));
	heki_guest_enable_cr0(from->vcpu[0], X86_CR0_WP);
	EXPECT_EQ(0, heki_call(from->vcpu[0], guest_clear_wp));
	seal_much(from);
	self->len = get_state(from, self->bytes);
	vcpu_set_msr(vcpu, MSR_LSTAR, MSR_VALUE);
	EXPECT_EQ(0, set_state(to, self->bytes, self->len));

	heki_guest_enable_cr0(vcpu, X86_CR0_WP);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_clear_wp));
	EXPECT_TRUE(heki_call(vcpu, guest_get_cr0) & X86_CR0_WP);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_wrmsr, MSR_LSTAR, MSR_VALUE + 1));
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_LSTAR, MSR_VALUE));
	EXPECT_EQ(MSR_VALUE, vcpu_get_msr(vcpu, MSR_LSTAR));
	EXPECT_EQ(~0ull, heki_query_pin(to, vcpu, HEKI_REG_MSR, MSR_LSTAR));
	EXPECT_EQ(X86_CR0_WP, heki_query_pin(to, vcpu, HEKI_REG_CR0, 0));
}

HEKI_TEST(state, the_allow_list_is_held)
{
	struct heki_vm *from = &self->from, *to = &self->to;

	if (!heki_has_exec(from))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_put_code(from, HEKI_PAGE(CODE));
	heki_put_code(to, HEKI_PAGE(CODE));
	EXPECT_EQ(0, heki_call(from->vcpu[0], guest_exec, HEKI_PAGE(CODE)));
	heki_seal_exec(from, heki_begin_exec_request(from));
	EXPECT_TRUE(heki_cannot_run(from->vcpu[0], HEKI_PAGE(CODE)));

	self->len = get_state(from, self->bytes);
	EXPECT_EQ(0, set_state(to, self->bytes, self->len));
	heki_guest_enable_cr4(to->vcpu[0], X86_CR4_SMEP);
	EXPECT_TRUE(heki_cannot_run(to->vcpu[0], HEKI_PAGE(CODE)));
	EXPECT_TRUE(heki_is_writable(to, to->vcpu[0], OTHER));
}

HEKI_TEST(state, goes_from_vm_to_vm_unchanged)
{
	u8 *again = self->bytes + MAX_BYTES / 2;

	seal_much(&self->from);
	self->len = get_state(&self->from, self->bytes);
	ASSERT_GT(MAX_BYTES / 2, self->len);
	EXPECT_EQ(0, set_state(&self->to, self->bytes, self->len));
	EXPECT_EQ(0, get_buffer(&self->to, &(struct heki_buffer){ (u64)again, self->len }));
	EXPECT_EQ(0, memcmp(self->bytes, again, self->len));
}

/*
 * Refusals
 */

static void no_magic(u8 *bytes)
{
	((struct heki_saved *)bytes)->magic ^= 1;
}

static void next_version(u8 *bytes)
{
	((struct heki_saved *)bytes)->version++;
}

static void other_length(u8 *bytes)
{
	((struct heki_saved *)bytes)->len -= 8;
}

static void one_record_more(u8 *bytes)
{
	((struct heki_saved *)bytes)->nr_records++;
}

static void one_record_less(u8 *bytes)
{
	((struct heki_saved *)bytes)->nr_records--;
}

static void unknown_record(u8 *bytes)
{
	header_of(bytes, HEKI_RECORD_COUNTERS)->kind = HEKI_RECORD_COUNTERS + 1;
}

static void a_record_twice(u8 *bytes)
{
	header_of(bytes, HEKI_RECORD_PROBES)->kind = HEKI_RECORD_SITES;
}

static void a_record_too_long(u8 *bytes)
{
	header_of(bytes, HEKI_RECORD_COUNTERS)->len += 8;
}

static void an_endless_record(u8 *bytes)
{
	header_of(bytes, HEKI_RECORD_SEAL)->len = ~0ull;
}

static void reserved_bits(u8 *bytes)
{
	header_of(bytes, HEKI_RECORD_LIFE)->reserved = 1;
}

static void no_such_life(u8 *bytes)
{
	*(u32 *)(header_of(bytes, HEKI_RECORD_LIFE) + 1) = HEKI_STATE_OFF;
}

static void open_with_a_seal(u8 *bytes)
{
	*(u32 *)(header_of(bytes, HEKI_RECORD_LIFE) + 1) = HEKI_STATE_OPEN;
}

static void overlapping_ranges(u8 *bytes)
{
	struct heki_range *range = heki_ranges(seal_of(bytes));

	range[1].gpa = range[0].gpa;
}

static void an_unaligned_range(u8 *bytes)
{
	heki_ranges(seal_of(bytes))[0].gpa++;
}

static void a_range_that_is_no_memory(u8 *bytes)
{
	heki_ranges(seal_of(bytes))[1].gpa = HEKI_HOLE_GPA;
}

static void write_and_exec(u8 *bytes)
{
	heki_ranges(seal_of(bytes))[0].rights = HEKI_RIGHTS;
}

static void another_abi(u8 *bytes)
{
	seal_of(bytes)->version++;
}

static void a_value_beside_its_pin(u8 *bytes)
{
	values_of(bytes)[0] |= 1ull << 63;
}

static void a_control_bit_that_is_clear(u8 *bytes)
{
	values_of(bytes)[0] = 0;
}

static void a_vcpu_that_is_not_there(u8 *bytes)
{
	counters_of(bytes)->vcpu = NO_VCPU;
}

static const struct {
	const char *name;
	void (*spoil)(u8 *bytes);
} spoilt[] = {
	{ "no magic", no_magic },
	{ "next version", next_version },
	{ "other length", other_length },
	{ "one record more", one_record_more },
	{ "one record less", one_record_less },
	{ "unknown record", unknown_record },
	{ "a record twice", a_record_twice },
	{ "a record too long", a_record_too_long },
	{ "an endless record", an_endless_record },
	{ "reserved bits", reserved_bits },
	{ "no such life", no_such_life },
	{ "open with a seal", open_with_a_seal },
	{ "overlapping ranges", overlapping_ranges },
	{ "an unaligned range", an_unaligned_range },
	{ "a range that is no memory", a_range_that_is_no_memory },
	{ "write and exec", write_and_exec },
	{ "another ABI", another_abi },
	{ "a value beside its pin", a_value_beside_its_pin },
	{ "a control bit that is clear", a_control_bit_that_is_clear },
	{ "a vCPU that is not there", a_vcpu_that_is_not_there },
};

HEKI_TEST(state, that_is_spoilt_is_refused_whole)
{
	struct heki_vm *to = &self->to;
	u8 bad[MAX_BYTES / 2];
	u64 len, i;

	seal_much(&self->from);
	len = get_state(&self->from, self->bytes);
	ASSERT_GT(sizeof(bad), len);
	for (i = 0; i < ARRAY_SIZE(spoilt); i++) {
		memcpy(bad, self->bytes, len);
		spoilt[i].spoil(bad);
		EXPECT_EQ(EINVAL, set_state(to, bad, len)) {
			TH_LOG("%s", spoilt[i].name);
		}
	}
	for (i = 1; i < len; i++)
		EXPECT_EQ(EINVAL, set_state(to, self->bytes, i));
	EXPECT_EQ(EINVAL, set_state(to, self->bytes, len + 8));
	EXPECT_EQ(EINVAL, set_state(to, self->bytes, 0));
	EXPECT_EQ(E2BIG, set_state(to, self->bytes, HEKI_MAX_STATE_BYTES + 1));
	EXPECT_EQ(EFAULT, set_state(to, NULL, len));
	EXPECT_EQ(EFAULT, set_buffer(to, NULL));
	EXPECT_EQ(EFAULT, get_buffer(to, NULL));
	EXPECT_EQ(EFAULT, get_buffer(to, &(struct heki_buffer){ .len = MAX_BYTES }));

	/* Nothing of all that took effect. */
	EXPECT_EQ(0, vcpu_get_stat(to->vcpu[0], heki_seal));
	EXPECT_TRUE(is_open(to));
	EXPECT_TRUE(heki_is_writable(to, to->vcpu[0], SEALED));
}

HEKI_TEST(state, is_set_once)
{
	seal_much(&self->from);
	self->len = get_state(&self->from, self->bytes);
	EXPECT_EQ(EBUSY, set_state(&self->from, self->bytes, self->len));
	EXPECT_EQ(0, set_state(&self->to, self->bytes, self->len));
	EXPECT_EQ(EBUSY, set_state(&self->to, self->bytes, self->len));
	EXPECT_TRUE(heki_is_sealed(&self->to, self->to.vcpu[0], SEALED));
}

HEKI_TEST(state, is_refused_once_a_vcpu_has_run)
{
	seal_much(&self->from);
	self->len = get_state(&self->from, self->bytes);
	EXPECT_TRUE(is_open(&self->to));
	EXPECT_EQ(EBUSY, set_state(&self->to, self->bytes, self->len));
	EXPECT_TRUE(is_open(&self->to));
	EXPECT_TRUE(heki_is_writable(&self->to, self->to.vcpu[0], SEALED));
}

static void create_without_vcpu(struct heki_vm *h)
{
	*h = (struct heki_vm){ .vm = __vm_create(VM_SHAPE_DEFAULT, 1, HEKI_TEST_PAGES) };
	heki_add_memory(h, VM_MEM_SRC_ANONYMOUS);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
}

HEKI_TEST(state, needs_a_vcpu)
{
	struct heki_vm none;

	seal_much(&self->from);
	self->len = get_state(&self->from, self->bytes);
	create_without_vcpu(&none);
	EXPECT_EQ(ENXIO, set_state(&none, self->bytes, self->len));
	heki_vm_free(&none);
}

/* What a host cannot hold, it does not take up. */
HEKI_TEST(state, is_refused_where_it_cannot_be_held)
{
	struct heki_vm hypervisor;
	u8 *bytes = self->bytes;

	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested guests on this host");
	seal_much(&self->from);
	self->len = get_state(&self->from, bytes);
	__heki_vm_create(&hypervisor, 1, HEKI_VM_NESTED, VM_MEM_SRC_ANONYMOUS);
	EXPECT_EQ(EOPNOTSUPP, set_state(&hypervisor, bytes, self->len));
	seal_of(bytes)->flags |= HEKI_SEAL_EXEC;
	EXPECT_EQ(EOPNOTSUPP, set_state(&hypervisor, bytes, self->len));
	EXPECT_TRUE(is_open(&hypervisor));
	heki_vm_free(&hypervisor);
}

HEKI_TEST(state, is_held_against_the_policy)
{
	struct heki_policy policy = {
		.version = HEKI_ABI_VERSION,
		.allowed = HEKI_PROT_CR | HEKI_PROT_MSR,
	};
	struct heki_vm limited;

	seal_much(&self->from);
	self->len = get_state(&self->from, self->bytes);
	create_without_vcpu(&limited);
	kvm_device_attr_set(limited.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY, &policy);
	heki_add_vcpu(&limited, 0, 0);
	EXPECT_EQ(EOPNOTSUPP, set_state(&limited, self->bytes, self->len));
	EXPECT_TRUE(is_open(&limited));
	heki_vm_free(&limited);
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
