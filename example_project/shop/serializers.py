from rest_framework import serializers

from .models import Customer, Item, Order


class CustomerSerializer(serializers.ModelSerializer):
    class Meta:
        model = Customer
        fields = ["id", "name", "email"]


class ItemSerializer(serializers.ModelSerializer):
    class Meta:
        model = Item
        fields = ["sku", "quantity", "price"]


class OrderSerializer(serializers.ModelSerializer):
    customer = CustomerSerializer()
    items = ItemSerializer(many=True)

    class Meta:
        model = Order
        fields = ["number", "status", "total", "placed_at", "customer", "items"]
