from django.contrib import admin

from .models import Customer, Item, Order, Product


class ItemInline(admin.TabularInline):
    model = Item
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["number", "customer", "status", "total", "placed_at"]
    list_filter = ["status"]
    list_select_related = ["customer"]
    search_fields = ["number", "customer__name", "customer__email"]
    inlines = [ItemInline]


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    list_display = ["name", "email", "user"]
    list_select_related = ["user"]
    search_fields = ["name", "email"]


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["sku", "name", "price", "stock"]
    search_fields = ["sku", "name"]
    actions = ["report_low_stock"]

    @admin.action(description="Publish shop.stock_low for the selected products")
    def report_low_stock(self, request, queryset):
        for product in queryset:
            product.report_low_stock()
        self.message_user(request, f"Published for {len(queryset)} products, to whoever listens.")
